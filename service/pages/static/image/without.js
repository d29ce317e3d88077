// Without the pinned patches: has the model answer anew where the service has one loaded, and tells what is different.

import { ApiError, post } from "../api.js";
import { counted } from "../chips.js";

const element = (id) => document.getElementById(id);
const made = (name, textContent) => Object.assign(document.createElement(name), { textContent });
const decimal = (value) => value.toFixed(2).replace(/^-0\.00$/, "0.00").replace("-", "−");

const FIELDS = { target: "target", mode: "mode", ring: "ring" };
const REPLACED = { corpus: "the corpus' mean patch", image: "the mean of this image's patches", null: "zeros" };
const WAITING = "The model answers. The first time it is loaded before, which may take a while.";

// The target unless another is asked for: the answer's first word, where there is the panel.
export const usual = () => element("without")?.dataset.target ?? "";

export class Without {
  #shown = null; // what the result is of
  #mistake = null;
  #running = false;

  constructor(page) {
    this.page = page;
    this.form = element("without-form");
    if (!this.form) return;
    for (const [id, field] of Object.entries(FIELDS)) {
      const control = element(id);
      control.oninput = () => page.set({ [field]: field === "ring" ? Number(control.value) : control.value });
      page.show(() => { if (document.activeElement !== control || control.type !== "text") control.value = page.values[field]; });
    }
    page.show(() => this.#say());
    this.form.onsubmit = (event) => {
      event.preventDefault();
      this.#run();
    };
    this.form.querySelector("fieldset").disabled = false;
  }

  // What is asked now, as one text.
  #asked() {
    const { pins, target, mode, ring } = this.page.values;
    return JSON.stringify([[...pins].sort((a, b) => a - b), target.trim(), mode, ring]);
  }

  // What is said beside the button; a mistake stands until something else is asked.
  #say() {
    const { pins } = this.page.values, asked = this.#asked(), isOld = this.#shown !== null && this.#shown !== asked;
    if (this.#mistake?.asked !== asked) this.#mistake = null;
    const said = this.#mistake?.text
      ?? (this.#running ? WAITING : !pins.length ? "Pin some patches on the picture." : isOld ? "Of other patches, or otherwise asked, than now." : "");
    element("take").setAttribute("aria-disabled", this.#running || !pins.length);
    element("without-result").classList.toggle("old", isOld);
    element("without-said").classList.toggle("mistake", this.#mistake !== null);
    if (element("without-said").textContent !== said) element("without-said").textContent = said;
  }

  async #run() {
    const { page } = this, { pins, target, mode, ring } = page.values, asked = this.#asked();
    if (this.#running || !pins.length) return;
    this.#mistake = target.trim() ? null : { asked, text: "Say which word is measured: the target." };
    if (this.#mistake) return this.#say();
    this.#running = true;
    this.#say();
    try {
      this.#tell(await post(`images/${page.image.number}/ablation`, { patches: pins, target: target.trim(), mode, buffer: ring }));
      this.#shown = asked;
    } catch (error) {
      this.#mistake = { asked: this.#asked(), text: `${error.message} ${error.hint ?? ""}` };
      if (!(error instanceof ApiError)) throw error;
    } finally {
      this.#running = false;
      this.#say();
    }
  }

  #tell({ tokens, patches, mean_of, before, after, effect, rank_before, rank_after, answer_before, answer, gone }) {
    const measured = tokens.map(({ piece, id }) => piece ?? id).join(", ");
    const verdict = gone === null ? "" : gone ? " The target is gone." : " The target is still in it.";
    const lines = [
      ["Answer", `${answer_before || "(none)"} → ${answer || "(none)"}.${verdict}`],
      ["Effect", `${decimal(effect)} nats: the log-probability of ${measured} at the answer's first token goes from ${decimal(before)} to ${decimal(after)}`],
      ["Rank", `${rank_before} → ${rank_after}`],
      ["Taken", `${counted(patches.length, "patch", "patches")}, with ${REPLACED[mean_of]} in ${patches.length > 1 ? "their places" : "its place"}`],
    ];
    element("without-result").replaceChildren(...lines.flatMap(([name, text]) => [made("dt", name), made("dd", text)]));
    const taken = element("without-result").lastElementChild;
    taken.addEventListener("pointerenter", () => this.page.spotlight(patches));
    taken.addEventListener("pointerleave", () => this.page.spotlight(null));
  }
}
