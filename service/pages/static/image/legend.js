// What the patches decode to, counted over the layers that are shown: all patches, and those of a chosen area.

import { page as pageOf } from "../api.js";
import { chip, counted } from "../chips.js";
import { areaQuery } from "./query.js";

const FEW = 24;

// How often the patches decode to each token in these layers; the most frequent first.
function counts(model, layers, patches) {
  const found = new Map();
  for (const layer of layers) {
    for (const patch of patches) {
      const token = model.token(layer, patch);
      const one = found.get(token.id) ?? { token, count: 0, patches: new Set() };
      one.count++;
      one.patches.add(patch);
      found.set(token.id, one);
    }
  }
  return [...found.values()].sort((a, b) => b.count - a.count || a.token.id - b.token.id);
}

const made = (name, values = {}) => Object.assign(document.createElement(name), values);
const layersSaid = (page) => (page.values.range ? `at layers ${page.values.range.replace("-", " to ")}` : `at layer ${page.values.layer}`);

// One entry a token: its page, and a button that colours by it. Pointing at it outlines all of its patches.
function entry(page, { token, count, patches }) {
  const item = made("li");
  const colour = made("button", { type: "button", textContent: count, title: `colour by the probability of ${token.shown}` });
  colour.setAttribute("aria-label", `${count} times ${token.shown}: colour by its probability`);
  colour.onclick = () => page.set({ token: named(page.model, token), colour: "heat" }, { step: true });
  item.append(chip(token), colour);
  const light = () => page.spotlight([...patches]), dark = () => page.spotlight(null);
  item.addEventListener("pointerenter", light);
  item.addEventListener("pointerleave", dark);
  item.addEventListener("focusin", light);
  item.addEventListener("focusout", dark);
  return item;
}

// What names this token, and no other, in the search.
const named = (model, token) => {
  const found = model.named(token.shown);
  return token.shown.startsWith("▁") && found.length === 1 && found[0].id === token.id ? token.shown : String(token.id);
};

export class Legend {
  constructor(element, page) {
    Object.assign(this, { element, page });
    this.title = made("h2", { id: "legend-title" });
    this.list = made("ul", { className: "counts" });
    this.more = made("button", { type: "button", id: "more", onclick: () => page.set({ all: !page.values.all }) });
    const heading = made("div", { className: "heading" });
    heading.append(this.title, this.more);
    element.append(heading, this.list);
    element.hidden = !page.model.patches;
  }

  update() {
    const { page } = this, { model, values } = page;
    if (!model.patches) return;
    const all = counts(model, page.counted(), model.patchesRead);
    this.title.textContent = `${counted(all.length, "token")} ${layersSaid(page)}`;
    this.list.replaceChildren(...all.slice(0, values.all ? undefined : FEW).map((one) => entry(page, one)));
    this.list.classList.toggle("all", values.all);
    this.more.hidden = all.length <= FEW;
    this.more.textContent = values.all ? "Fewer" : `All ${all.length}`;
    this.more.setAttribute("aria-expanded", values.all);
  }
}

export class Chosen {
  constructor(element, page) {
    Object.assign(this, { element, page });
    this.title = made("h2", { id: "chosen-title" });
    this.list = made("ul", { className: "counts" });
    this.clear = made("button", { type: "button", textContent: "Clear", onclick: () => page.choose([]) });
    this.ask = made("p");
    const heading = made("div", { className: "heading" });
    heading.append(this.title, this.clear);
    element.append(heading, this.list, this.ask);
  }

  update() {
    const { page } = this, { model, values } = page;
    this.element.hidden = !model.patches;
    if (!model.patches) return;
    this.clear.hidden = !values.area.length;
    if (!values.area.length) {
      this.title.textContent = "Chosen patches";
      this.list.replaceChildren();
      this.ask.textContent = "Draw around patches (lasso or box, or drag with shift held down): they are counted here, and become a query.";
      return;
    }
    const chosen = values.area.filter((patch) => model.isThere[patch]), all = counts(model, page.counted(), chosen);
    this.title.textContent = `${counted(chosen.length, "chosen patch", "chosen patches")} ${layersSaid(page)}`;
    this.list.replaceChildren(...all.slice(0, FEW).map((one) => entry(page, one)));
    const token = model.ids.size ? { word: values.token, ids: [...model.ids] } : all.length ? { ids: [all[0].token.id] } : null;
    const query = token && areaQuery(token, chosen, page.image);
    if (!query) {
      this.ask.replaceChildren(token ? "Too many patches for one query." : "None of these was read.");
      return;
    }
    const where = pageOf(`?q=${encodeURIComponent(query)}`);
    const code = made("code", { textContent: query });
    this.ask.replaceChildren("Ask: ", where ? made("a", { href: where, id: "ask" }) : "");
    (where ? this.ask.querySelector("a") : this.ask).append(code);
  }
}
