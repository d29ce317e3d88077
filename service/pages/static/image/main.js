// An image's page: asks for its readings, holds its state, and tells the parts of the page what is new.

import { ApiError, getBytes, getJson, isFile, path } from "../api.js";
import { dress } from "../chips.js";
import { copies } from "../copies.js";
import { Lens } from "../lens.js";
import { choice, flag, number, numbers, State, text } from "../state.js";
import { controls, key, offered, TOOLS } from "./controls.js";
import { Curves } from "./curves.js";
import { listen } from "./keys.js";
import { Effects } from "./effects.js";
import { Layers } from "./layers.js";
import { Chosen, Legend } from "./legend.js";
import { Minimap } from "./minimap.js";
import { Model } from "./model.js";
import { ordered } from "./order.js";
import { Paint } from "./paint.js";
import { Picture } from "./picture.js";
import { rectangle, spans, unspanned } from "./pins.js";
import { imageQuery } from "./query.js";
import { Table } from "./table.js";
import { Tip } from "./tip.js";
import { usual, Without } from "./without.js";
import { trouble } from "../trouble.js";
import { fill, whole as wholePanel } from "../whole.js";

const SOON = 5; // tokens of each reading that are asked for behind the first ones: what a tooltip shows
const element = (id) => document.getElementById(id);
const whole = (usual, least, most) => ({ ...number(usual, least, most), read: (value) => Math.round(number(usual, least, most).read(value)) });

export class ImagePage {
  #shows = [];
  #pending = 0;

  constructor(model, { number: id, name, k, sites, repeated }) {
    // `isHeld`: the row that the arrows are at, or that a finger touched, has its tooltip.
    Object.assign(this, { model, name, k, sites, image: { number: id, name, repeated }, hovered: null, isHeld: false });
    const most = Math.max(0, model.patches - 1);
    this.state = new State({
      layer: whole(model.last, 0, model.layers - 1),
      range: { ...text(), read: (value) => readRange(value, model.layers) },
      patch: whole(-1, -1, model.count - 1), // the row that arrows walk from; none at -1
      pins: { ...numbers(), read: (value) => numbers().read(value).filter((patch) => patch <= most && model.patches) },
      texts: { ...numbers(), read: (value) => numbers().read(value).filter((row) => row < model.texts.length) },
      colour: choice("token", offered("colour", "token")),
      token: text(),
      threshold: number(0, 0, 1),
      opacity: number(0.6, 0, 1),
      order: choice("raster", offered("rows", "raster")),
      tool: choice("pin", TOOLS),
      area: { usual: [], read: (value) => (model.patches ? unspanned(value, most) : []), write: spans },
      all: flag(), // tokens of the legend
      play: flag(),
      target: text(usual()),
      mode: choice("mean", ["mean", "zero"]),
      ring: whole(0, 0, 2),
      whole: wholePanel(),
    });
    fill(this.state);
    model.want(model.named(this.values.token));
    this.paint = new Paint(model);
    this.paint.set(this.values);
    this.#order();
    controls(this);
    key(this);
    this.picture = new Picture(element("stage"), this);
    this.table = new Table(element("table"), this);
    this.minimap = new Minimap(element("table"), this.table, this);
    this.layers = new Layers(element("layers"), this);
    this.legend = new Legend(element("legend"), this);
    this.chosen = new Chosen(element("chosen"), this);
    this.curves = new Curves(element("curves"), this);
    this.without = new Without(this);
    new Effects(this);
    this.tip = new Tip(this);
    element("copies").append(copies(() => this.query(), () => this.state.settle()));
    dress(document);
    listen(this, element("stage"), this.table.scroller);
    addEventListener("scroll", () => this.#showPlace(), { passive: true });
    this.state.on((values, before) => this.#changed(before));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.paint.theme(); this.#draw(true); });
    this.table.draw();
    this.picture.draw();
    this.#draw(true);
    if (this.values.patch >= 0) this.table.speak(this.values.patch);
    const kept = this.values.patch >= 0 ? this.values.patch : this.pinned()[0];
    if (kept !== undefined) this.table.reveal(kept, this.values.layer);
    else this.table.revealLayer(this.values.layer);
  }

  get values() {
    return this.state.values;
  }

  // `draw` is called at once, and whenever the state is another.
  show(draw) {
    this.#shows.push(draw);
  }

  // --- what is shown --------------------------------------------------------------------------------------------

  set(changes, options) {
    this.state.set(changes, options);
  }

  // The pinned rows: patches, and tokens of the text.
  pinned() {
    return [...this.values.pins, ...this.values.texts.map((i) => this.model.patches + i)];
  }

  // The layers over which tokens are counted: those of the range, or the one that is shown.
  counted() {
    const { range, layer } = this.values, [from, to] = range ? range.split("-").map(Number) : [layer, layer];
    return this.model.read.filter((one) => from <= one && one <= to);
  }

  query() {
    const { model, values } = this;
    return imageQuery(this.image, values, { rank: Math.min(SOON, this.k), at: model.patches ? "patch" : this.sites[0] });
  }

  #order() {
    this.rows = ordered(this.model, this.values.order);
    this.places = new Int32Array(this.rows.length);
    this.rows.forEach((row, place) => (this.places[row] = place));
  }

  #changed(before) {
    const { values } = this, isNew = (...names) => names.some((name) => values[name] !== before[name]);
    if (isNew("token")) this.model.want(this.model.named(values.token));
    this.#wantMore();
    this.paint.set(values);
    if (isNew("order", "token")) this.#order();
    if (isNew("layer")) this.table.revealLayer(values.layer);
    if (isNew("patch", "layer")) this.table.speak(values.patch < 0 ? null : values.patch);
    const isElsewhere = isNew("colour", "token", "threshold", "order");
    this.isElsewhere ||= isElsewhere;
    if (this.#pending) return;
    this.#pending = requestAnimationFrame(() => this.#draw(this.isElsewhere));
  }

  // Everything that the state decides; `whole`: also what shows all layers at once.
  #draw(whole) {
    this.#pending = 0;
    this.isElsewhere = false;
    for (const draw of this.#shows) draw();
    this.picture.drawFills();
    this.picture.drawMarks();
    this.table.drawHead();
    this.table.drawBody();
    if (whole) this.minimap.draw();
    for (const part of [this.layers, this.legend, this.chosen, this.curves]) part.update();
    this.#links();
    this.#showPlace();
  }

  // The images before and after this one are shown as this one is.
  #links() {
    const { layer, colour, token, threshold, opacity, order, range } = this.values;
    const usual = this.state.address({ patch: -1, pins: [], texts: [], area: [], tool: "pin", play: false, all: false, layer, colour, token, threshold, opacity, order, range });
    const [asked = ""] = usual.match(/[?#].*/) ?? [];
    for (const name of ["previous", "next"]) {
      const link = element(name);
      if (link) link.href = link.href.replace(/[?#].*$/, "") + asked;
    }
  }

  // --- what a person points at ----------------------------------------------------------------------------------

  // A place is a row, its layer (null: the one that is shown), and the part of the page that it was pointed at in.
  point(place) {
    if (this.hovered?.row === place?.row && this.hovered?.layer === place?.layer) return;
    this.hovered = place;
    this.#showPlace();
  }

  // What is pointed at, or the row that the arrows are at.
  shown() {
    const { patch } = this.values;
    return this.hovered ?? (patch >= 0 ? { row: patch, layer: null, from: null } : null);
  }

  #showPlace() {
    const place = this.shown(), isTold = place && (this.hovered || this.isHeld), rect = isTold ? this.#rect(place) : null; // asked before anything is moved
    this.picture.point(place?.row ?? null);
    this.table.point(place?.row ?? null, place?.layer ?? null);
    if (isTold) this.tip.show(place.row, place.layer ?? this.values.layer, rect);
    else this.tip.hide();
  }

  // What the tooltip stands beside: a patch of the picture or a cell of the table, where a person is.
  #rect({ row, layer, from }) {
    const inTable = from === this.table || (from === null && document.activeElement === this.table.scroller);
    if (row < this.model.patches && !inTable) return this.picture.rect(row);
    return this.table.rect(row, layer ?? (from ? null : this.values.layer));
  }

  scrolled() {
    this.minimap.scrolled();
    this.#showPlace();
  }

  spotlight(patches) {
    this.picture.spotlight(patches);
  }

  // Keep a row, or let it go; `extend`: keep the rectangle between the last kept patch and this one.
  pin(row, { extend = false } = {}) {
    const { model, values } = this;
    if (row >= model.patches) {
      const i = row - model.patches;
      this.set({ patch: row, texts: values.texts.includes(i) ? values.texts.filter((one) => one !== i) : [...values.texts, i] });
    } else if (extend && values.pins.length) {
      const last = values.pins.at(-1), more = rectangle(last, row, model.columns).filter((patch) => !values.pins.includes(patch) && !model.isPadding(patch));
      this.set({ patch: row, pins: [...values.pins, ...more] });
    } else {
      const isPinned = values.pins.includes(row);
      this.set({ patch: isPinned ? -1 : row, pins: isPinned ? values.pins.filter((patch) => patch !== row) : [...values.pins, row] });
      if (isPinned) return;
    }
    this.table.reveal(row, this.values.layer);
  }

  choose(patches) {
    this.set({ area: patches }, { step: true });
  }

  // To the next layer that was read, that way; `extend`: the layers from where that began to there are counted together.
  step(by, { extend = false } = {}) {
    const { read } = this.model, { layer, range } = this.values;
    const next = by > 0 ? read.find((one) => one > layer) : read.findLast((one) => one < layer);
    if (next === undefined) return;
    const start = range.split("-").map(Number).find((end) => range && end !== layer) ?? layer;
    const [from, to] = [Math.min(start, next), Math.max(start, next)];
    this.set({ layer: next, range: extend && from < to ? `${from}-${to}` : "" });
  }

  // The arrows come to a row.
  walk(row) {
    this.isHeld = true;
    this.hovered = null;
    this.set({ patch: row });
    this.table.reveal(row, this.values.layer);
    const { model, values } = this, best = model.isRead(values.layer, row) ? model.best(values.layer, row, 1)[0] : null;
    element("said").textContent = `${model.name(row)}${best ? `: ${best.token.shown}` : ""}`;
  }

  // They are elsewhere.
  leave() {
    this.isHeld = false;
    this.#showPlace();
  }

  letGo() {
    const isStep = this.pinned().length + this.values.area.length > 0;
    this.hovered = null;
    this.set({ pins: [], texts: [], area: [], patch: -1, range: "" }, { step: isStep });
  }

  // --- readings -------------------------------------------------------------------------------------------------

  // Tokens that were searched, and curves, go by all that is stored; anything else by what a tooltip shows.
  async #wantMore() {
    const wanted = this.values.token || this.pinned().length ? this.k : Math.min(SOON, this.k);
    if (wanted <= (this.asked ?? this.model.k)) return;
    this.asked = wanted;
    let found;
    try {
      found = await readings(this.image.number, this.sites, wanted);
    } catch (error) {
      if (wanted === this.asked) this.#missing(error);
      return;
    }
    if (wanted < this.asked) return; // even more came
    element("trouble").replaceChildren();
    for (const [site, lens] of Object.entries(found)) this.model.take(site, lens);
    this.model.want(this.model.named(this.values.token));
    this.paint.set(this.values);
    this.#order();
    this.#draw(true);
    document.documentElement.dataset.k = wanted;
  }

  // More tokens could not be had: what is shown goes by fewer, which is said, until they come.
  #missing(error) {
    const { k } = this.model, here = k === 1 ? "Of each reading only the best token is here." : `Of each reading only the ${k} best tokens are here.`;
    this.asked = k; // the next change asks again, too
    element("trouble").replaceChildren(trouble(error, () => this.#wantMore(), here));
  }

  begin() {
    this.#wantMore();
  }
}

function readRange(value, layers) {
  const match = /^(\d+)-(\d+)$/.exec(value), [from, to] = match ? [Number(match[1]), Number(match[2])] : [0, 0];
  return match && from < to && to < layers ? value : "";
}

async function readings(id, sites, k) {
  const found = await Promise.all(sites.map((site) => getBytes(path(`images/${id}/lens`, { site, k }))));
  return Object.fromEntries(sites.map((site, i) => [site, new Lens(found[i])]));
}

async function begin() {
  const { id, name, k, sites, repeated } = element("page").dataset, named = sites.split(" ").filter(Boolean);
  if (!named.length) throw new ApiError({ message: "This image has readings at no position." }, 404);
  const first = isFile ? Number(k) : 1; // a file holds all that it has
  const [about, lenses] = await Promise.all([getJson(path(`images/${id}`)), readings(id, named, first)]);
  const page = new ImagePage(new Model(about, lenses), { number: Number(id), name, k: Number(k), sites: named, repeated: repeated !== undefined });
  document.documentElement.dataset.k = first;
  performance.mark("drawn");
  requestAnimationFrame(() => setTimeout(() => page.begin()));
}

begin().catch((error) => {
  element("page").before(trouble(error, () => location.reload()));
  element("page").hidden = true;
  if (!(error instanceof ApiError)) throw error;
});
