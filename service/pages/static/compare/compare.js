// The page that compares: two sides whose cursors are locked to each other, and two sets of images.

import { corpus, isFile } from "../api.js";
import { copies } from "../copies.js";
import { key } from "../keys.js";
import { Panels } from "../panels.js";
import { State, flag, number, text } from "../state.js";
import { trouble } from "../trouble.js";
import { fill, whole as wholePanel } from "../whole.js";
import { differences } from "./differences.js";
import { sets } from "./sets.js";
import { Side } from "./side.js";

const { runs, usual } = JSON.parse(document.getElementById("context").textContent);
const layersOf = (run) => runs.find(({ name }) => name === run)?.layers ?? [];
const lastOf = (run) => layersOf(run).at(-1);

// Two values, of the first and the second; one stands for both.
const two = (usual, read = (value) => value) => ({
  usual,
  read: (value) => {
    const parts = value.split(",").map((part) => read(part.trim()));
    return [parts[0] ?? usual[0], parts[1] ?? parts[0] ?? usual[1]];
  },
  write: (values) => values.join(","),
});
const whole = (value) => (/^\d{1,9}$/.test(value) ? Number(value) : undefined);
const here = runs.some(({ name }) => name === corpus) ? corpus : runs[0]?.name;

const state = new State({
  images: two(usual, whole),
  layers: two([lastOf(here), lastOf(here)], whole),
  runs: two([here, here], (value) => (layersOf(value).length ? value : undefined)),
  patch: number(-1, -1),
  marks: flag(true),
  a: text(""),
  b: text(""),
  at: text(""),
  a_name: text(""),
  b_name: text(""),
  whole: wholePanel(),
});
fill(state);

// --- side by side --------------------------------------------------------------------------------------------------

const form = document.getElementById("sides");
if (form) {
  const cursor = { side: 0, patch: null };
  const layerOf = (at) => {
    const layers = layersOf(state.values.runs[at]), layer = state.values.layers[at];
    return layers.includes(layer) ? layer : layers.at(-1);
  };
  const sides = [...form.querySelectorAll("[data-side]")].map((element, at) => new Side(element, {
    moved: (patch) => { Object.assign(cursor, { side: at, patch }); draw(); },
    held: (patch) => {
      if (patch === null || !sides[0].image || !sides[1].image) return;
      const first = at === 0 ? patch : sides[0].same(patch, sides[1].image.grid);
      state.set({ patch: state.values.patch === first ? -1 : first }, { step: true });
    },
  }));

  const draw = () => {
    if (!sides[0].image || !sides[1].image) return;
    const isHeld = cursor.patch === null && state.values.patch >= 0;
    const from = isHeld ? 0 : cursor.side;
    let patch = isHeld ? state.values.patch : cursor.patch;
    const [rows, columns] = sides[from].image.grid;
    if (patch !== null && patch >= rows * columns) patch = null;
    sides.forEach((side, at) => side.show(at === from ? patch : side.same(patch, sides[from].image.grid), layerOf(at), isHeld));
  };

  // Patches whose first tokens are not the same; by what is shown of them, since runs may have other vocabularies.
  const mark = () => {
    if (!sides[0].image || !sides[1].image) return;
    sides.forEach((side, at) => {
      const other = sides[1 - at], found = [];
      for (let patch = 0; state.values.marks && patch < side.lens.positions; patch++) {
        const mine = side.lens.at(layerOf(at), patch), its = other.lens.at(layerOf(1 - at), other.same(patch, side.image.grid));
        if (mine && its && mine.shown !== its.shown) found.push(patch);
      }
      side.mark(found);
    });
  };

  const control = (what, at) => form.elements[`${what}-${"ab"[at]}`];
  const show = () => {
    for (const at of [0, 1]) {
      const { runs: names, images } = state.values;
      if (control("runs", at)) control("runs", at).value = names[at];
      if (document.activeElement !== control("images", at)) control("images", at).value = images[at];
      const select = control("layers", at), layers = layersOf(names[at]);
      if (select.dataset.run !== names[at]) {
        select.replaceChildren(...layers.map((layer) => new Option(`layer ${layer}${layer === 0 ? " (embedding)" : ""}`, layer)));
        select.dataset.run = names[at];
      }
      select.value = layerOf(at);
    }
    form.elements.marks.checked = state.values.marks;
  };
  const load = (at) => {
    const { runs: names, images } = state.values, side = sides[at], wanted = `${names[at]}/${images[at]}`;
    if (side.wanted !== wanted) Object.assign(side, { wanted, loaded: loaded(side, names[at], images[at]) });
    return side.loaded;
  };
  const loaded = async (side, run, image) => {
    try {
      if (!(await side.load(run, image))) return;
      draw();
      mark();
    } catch (error) {
      side.wanted = null;
      side.clear(run, image);
      side.said.replaceChildren(trouble(error, () => load(sides.indexOf(side))));
    }
  };
  let timer = 0;
  const changed = () => {
    show();
    draw();
    mark();
    clearTimeout(timer);
    timer = setTimeout(() => { load(0); load(1); }, 150);
  };
  state.on(changed);
  show();
  load(0);
  load(1);

  for (const what of ["runs", "images", "layers"]) {
    for (const at of [0, 1]) {
      control(what, at)?.addEventListener(what === "images" ? "input" : "change", ({ target }) => {
        if (target.value === "" || !target.checkValidity()) return;
        const values = [...state.values[what]];
        values[at] = what === "runs" ? target.value : Number(target.value);
        state.set({ [what]: values }, { step: what !== "images" });
      });
    }
  }
  form.elements.marks.addEventListener("change", () => state.set({ marks: form.elements.marks.checked }));
  form.addEventListener("submit", (event) => event.preventDefault());
  const swap = document.getElementById("swap");
  swap.hidden = false;
  swap.onclick = () => state.set(
    Object.fromEntries(["runs", "images", "layers"].map((what) => [what, [...state.values[what]].reverse()])), { step: true });
  // Two runs' readings of one image at a layer are one question, what else stands side by side are two.
  const query = () => {
    const [a, b] = [0, 1].map((at) => `top(${state.values.images[at]}, layers=${layerOf(at)})`), { runs: names } = state.values;
    const isOne = a === b && names[0] !== names[1] && sides[0].image?.image === sides[1].image?.image;
    if (isOne) return `compare('${names[0]}', '${names[1]}', ${a})`;
    return a === b && names[0] === names[1] ? a : [a, b];
  };
  document.getElementById("copies").append(copies(query, () => state.settle(), () => state.values.runs));
  // Without a service, which compares all that is stored, a panel is of what both sides have loaded.
  const compared = async ({ id }) => {
    await Promise.all([load(0), load(1)]);
    if (!sides.every(({ image }) => image)) return "";
    return differences(id, document.getElementById(`${id}-title`).textContent, sides, [layerOf(0), layerOf(1)]);
  };
  new Panels(state, document.getElementById("pair-panels"), isFile ? compared : null);
  // A row of the patches' table is a patch of the first side.
  const patches = document.getElementById("patches");
  const rowOf = (event) => {
    const name = event.target.closest("#patches tbody tr")?.querySelector("th")?.textContent;
    return name === undefined ? null : parseInt(name, 10);
  };
  patches.addEventListener("pointerover", (event) => { Object.assign(cursor, { side: 0, patch: rowOf(event) }); draw(); });
  patches.addEventListener("pointerleave", () => { cursor.patch = null; draw(); });
  patches.addEventListener("click", (event) => {
    const patch = rowOf(event);
    if (patch !== null && !event.target.closest("a")) state.set({ patch }, { step: true });
  });

  const step = (at, by) => () => {
    const layers = layersOf(state.values.runs[at]), place = layers.indexOf(layerOf(at)) + by;
    if (place < 0 || place >= layers.length) return false;
    const values = [layerOf(0), layerOf(1)];
    values[at] = layers[place];
    state.set({ layers: values });
    return true;
  };
  key(["["], "[", "the first side's layer one lower", step(0, -1));
  key(["]"], "]", "the first side's layer one higher", step(0, 1));
  key(["{"], "{", "the second side's layer one lower", step(1, -1));
  key(["}"], "}", "the second side's layer one higher", step(1, 1));
  key(["s"], "s", "swap the sides", () => swap.click());
  key(["Escape"], "Esc", "let go of the patch that is held", () => state.set({ patch: -1 }));
}

const queries = document.getElementById("queries");
if (queries) sets(state, queries);
