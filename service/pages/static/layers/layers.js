// The layers' page: its controls and panels. A bar, or a place of a line's chart, chooses no layer: two are chosen above.

import { copies } from "../copies.js";
import { key } from "../keys.js";
import { Panels, bind } from "../panels.js";
import { State, choice } from "../state.js";
import { fill, whole } from "../whole.js";

const form = document.getElementById("controls");
const options = (name) => [...form.elements[name].options].map((option) => option.value);
const sites = options("at"), layers = options("from");

const state = new State({
  at: choice(sites[0], sites),
  unit: choice("image", ["image", "position"]),
  from: choice(layers[Math.floor((layers.length - 1) / 2)], layers),
  to: choice(layers.at(-1), layers),
  whole: whole(),
});
fill(state);
bind(state, form, { panels: new Panels(state, document.querySelector(".panels")) });

const query = () => {
  const { at, unit } = state.values;
  return `divergence(at='${at}'${unit === "image" ? "" : `, unit='${unit}'`})`;
};
document.getElementById("copies").append(copies(query, () => state.settle()));

const swap = document.getElementById("swap");
swap.hidden = false;
swap.onclick = () => state.set({ from: state.values.to, to: state.values.from }, { step: true });

const step = (name, by) => () => {
  const at = layers.indexOf(state.values[name]) + by;
  if (at < 0 || at >= layers.length) return false;
  if (form.elements[name].options[at].disabled) return false;
  state.set({ [name]: layers[at] });
  return true;
};
key(["["], "[", "the first of the two layers one lower", step("from", -1));
key(["]"], "]", "the first of the two layers one higher", step("from", 1));
key(["{"], "{", "the second one lower", step("to", -1));
key(["}"], "}", "the second one higher", step("to", 1));
key(["s"], "s", "swap the two layers", () => swap.click());
