// Panels: each is fetched by itself when it comes near the window, and again when the state that it depends on changes.

import { getText, isFile, isHeld, root } from "./api.js";
import { dress as dressChips } from "./chips.js";
import { copies } from "./copies.js";
import { trouble } from "./trouble.js";

// Chips that the server made get their colours and marks, and queries their buttons.
export function dress(element) {
  dressChips(element);
  for (const asked of element.querySelectorAll("details.asked")) {
    asked.addEventListener("toggle", () => asked.append(copies(() => asked.dataset.query, undefined, () => asked.dataset.of)), { once: true });
  }
}

export class Panels {
  #state;
  #place;
  #make;
  #fetching = new Map();
  #failed = new Set();
  #listeners = [];

  // `place` holds the panels; its `data-base` is what their addresses begin with. `make` gives a panel's content where
  // no service is asked for it.
  constructor(state, place, make = null) {
    this.#state = state;
    this.#place = place;
    this.#make = make;
    // What is far below is fetched when somebody goes there.
    this.seen = new IntersectionObserver((entries) => {
      for (const { isIntersecting, target } of entries) {
        if (!isIntersecting) continue;
        this.seen.unobserve(target);
        this.#show(target);
      }
    }, { rootMargin: "600px" });
    for (const panel of place.querySelectorAll("[data-panel]")) this.seen.observe(panel);
    let timer = 0, changed = new Set();
    state.on((values, before) => {
      for (const name of Object.keys(values)) if (values[name] !== before[name]) changed.add(name);
      clearTimeout(timer);
      timer = setTimeout(() => {
        for (const panel of place.querySelectorAll("[data-panel]")) {
          if (panel.dataset.uses.split(" ").some((name) => changed.has(name)) && this.#fetching.has(panel)) this.#show(panel);
        }
        changed = new Set();
      }, 150);
    });
  }

  // `listener` gets a panel whose content is new.
  on(listener) {
    this.#listeners.push(listener);
  }

  #address(panel, changes = {}) {
    const given = this.#state.parameters(changes);
    const parts = new URLSearchParams([...given].filter(([name]) => panel.dataset.uses.split(" ").includes(name)));
    parts.set("part", "1");
    return `${this.#place.dataset.base.slice(root.length)}/${panel.dataset.panel}?${parts}`;
  }

  // Whether a panel that goes by any of these fields can show them so: files have answers to some choices only.
  offers(changes) {
    if (!isFile) return true;
    const isAbout = (panel) => panel.dataset.uses.split(" ").some((name) => name in changes);
    return [...this.#place.querySelectorAll("[data-panel]")].some((panel) => isAbout(panel) && isHeld(this.#address(panel, changes)));
  }

  async #content(panel, signal) {
    if (this.#make) return this.#make(panel);
    const made = document.createElement("template");
    made.innerHTML = await getText(this.#address(panel), signal); // of this service's templates, which escape every value
    return made.content;
  }

  async #show(panel) {
    this.#fetching.get(panel)?.abort();
    const controller = new AbortController(), content = panel.querySelector(".content");
    this.#fetching.set(panel, controller);
    this.#failed.delete(panel);
    content.setAttribute("aria-busy", "true");
    try {
      const made = await this.#content(panel, controller.signal);
      if (controller.signal.aborted) return;
      content.replaceChildren(made);
      dress(content);
      for (const listener of this.#listeners) listener(panel);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.#failed.add(panel);
      content.replaceChildren(trouble(error, () => { for (const one of [...this.#failed]) this.#show(one); }));
    }
    content.removeAttribute("aria-busy");
  }
}

// A form's controls and the state, each way: a control's name is its field's; of some fields with `names`. What `panels`
// cannot show is not offered.
export function bind(state, form, { step = true, names = Object.keys(state.values), panels = null } = {}) {
  const controls = [...form.elements].filter((control) => names.includes(control.name));
  const show = () => {
    for (const control of controls) {
      const value = String(state.values[control.name]);
      if (control.type === "checkbox") control.checked = state.values[control.name] === true;
      else if (document.activeElement !== control || control.tagName === "SELECT") control.value = value;
      if (!isFile || !panels || control.tagName !== "SELECT") continue;
      for (const option of control.options) option.disabled = option.value !== value && !panels.offers({ [control.name]: option.value });
    }
  };
  for (const control of controls) {
    control.addEventListener(control.type === "number" || control.type === "text" ? "input" : "change", () => {
      if (!control.checkValidity() || (control.type === "number" && control.value === "")) return;
      const usual = state.values[control.name];
      const value = control.type === "checkbox" ? control.checked : typeof usual === "number" ? Number(control.value) : control.value;
      state.set({ [control.name]: value }, { step: step && control.tagName === "SELECT" });
    });
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  state.on(show);
  show();
}

dress(document);
