// A slot a layer: click one, drag over several, play. A bar in each tells how many patches decode to what is searched,
// or, while nothing is, to what they decode to at the last layer.

const BEAT = 500; // milliseconds a layer is shown while playing

export class Layers {
  constructor(element, page) {
    this.page = page;
    const { model } = page;
    this.said = Object.assign(document.createElement("span"), { className: "said" });
    this.play = Object.assign(document.createElement("button"), { type: "button", id: "play", onclick: () => page.set({ play: !page.values.play }) });
    this.strip = Object.assign(document.createElement("div"), { className: "slots" });
    this.strip.setAttribute("role", "group");
    this.strip.setAttribute("aria-label", "Layers. Drag over several, or hold Shift with the arrows, to count tokens over all of them.");
    this.slots = Array.from({ length: model.layers }, (_, layer) => {
      const slot = Object.assign(document.createElement("button"), { type: "button", className: "slot" });
      slot.dataset.layer = layer;
      const bar = document.createElement("i"), name = Object.assign(document.createElement("span"), { textContent: layer });
      slot.append(bar, name);
      slot.classList.toggle("unread", !model.isRead(layer));
      return slot;
    });
    this.strip.append(...this.slots);
    const line = document.createElement("div");
    line.className = "tools";
    line.append(this.play, this.said);
    element.append(line, this.strip);
    this.#listen();
  }

  #listen() {
    const { strip, page } = this;
    let from = null;
    const under = (event) => document.elementFromPoint(event.clientX, event.clientY)?.closest(".slot") ?? null;
    const layerOf = (slot) => Number(slot.dataset.layer);
    strip.addEventListener("pointerdown", (event) => {
      const slot = event.target.closest(".slot");
      if (!slot || event.button) return;
      event.target.releasePointerCapture?.(event.pointerId);
      from = layerOf(slot);
      page.set({ layer: from, range: "", play: false });
    });
    addEventListener("pointermove", (event) => {
      const slot = from === null ? null : under(event);
      if (!slot || layerOf(slot) === page.values.layer) return;
      const to = layerOf(slot);
      page.set({ layer: to, range: to === from ? "" : `${Math.min(from, to)}-${Math.max(from, to)}` });
    });
    addEventListener("pointerup", () => (from = null));
    addEventListener("pointercancel", () => (from = null));
    strip.addEventListener("click", (event) => { // of keys; a pointer's was seen above
      const slot = event.target.closest(".slot");
      if (slot && event.detail === 0) page.set({ layer: layerOf(slot), range: "" });
    });
    strip.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      page.step(by, { extend: event.shiftKey });
      this.slots[page.values.layer].focus();
    });
  }

  update() {
    const { page } = this, { model, values } = page, counted = new Set(page.counted()), isRange = values.range !== "";
    this.said.textContent = `Layer ${values.layer}${isRange ? `; counted over ${values.range.replace("-", " to ")}` : ""}`;
    this.play.textContent = values.play ? "Stop" : "Play";
    this.play.setAttribute("aria-pressed", values.play);
    const bars = this.#bars(), most = Math.max(1, ...bars.map(([count]) => count));
    this.slots.forEach((slot, layer) => {
      slot.tabIndex = layer === values.layer ? 0 : -1;
      slot.setAttribute("aria-pressed", layer === values.layer);
      slot.classList.toggle("counted", isRange && counted.has(layer));
      slot.classList.toggle("named", layer % Math.max(1, Math.ceil(model.layers / 17)) === 0 || layer === model.layers - 1 || layer === values.layer);
      const [count, said] = bars[layer];
      slot.title = said;
      slot.setAttribute("aria-label", said);
      slot.firstChild.style.setProperty("--share", count / most);
    });
    clearTimeout(this.timer);
    if (values.play) this.timer = setTimeout(() => this.#beat(), BEAT);
  }

  // The next layer that was read, of those that are counted where there are several.
  #beat() {
    const { page } = this, round = page.values.range === "" ? page.model.read : page.counted();
    if (document.hidden || !round.length) this.timer = setTimeout(() => this.#beat(), BEAT);
    else page.set({ layer: round.find((layer) => layer > page.values.layer) ?? round[0] });
  }

  #bars() {
    const { model, paint } = this.page, key = `${paint.by} ${[...model.ids].join()} ${model.k}`;
    if (this.key === key) return this.bars;
    this.key = key;
    this.bars = Array.from({ length: model.layers }, (_, layer) => {
      if (!model.isRead(layer)) return [0, `layer ${layer}: not read`];
      let count = 0;
      for (const patch of model.patchesRead) {
        const id = model.token(layer, patch).id;
        count += model.ids.size ? model.ids.has(id) : id === model.token(model.last, patch).id;
      }
      const what = model.ids.size ? `decode to ${this.page.values.token}` : `decode to the same as at layer ${model.last}`;
      return [count, model.patches ? `layer ${layer}: ${count} of ${model.patchesRead.length} patches ${what}` : `layer ${layer}`];
    });
    return this.bars;
  }
}
