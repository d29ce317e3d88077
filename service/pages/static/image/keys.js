// The keys of an image's page.

import { key } from "../keys.js";

const WAYS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const inside = (value, most) => Math.max(0, Math.min(most, value));

export function listen(page, stage, grid) {
  const { model } = page;
  key(Object.keys(WAYS), "arrows", "on the picture: from patch to patch", (event) => {
    if (!model.patches) return false;
    const { patch } = page.values, [down, right] = WAYS[event.key], at = (row, column) => row * model.columns + column;
    if (patch < 0 || patch >= model.patches) return page.walk(at(Math.floor(model.rows / 2), Math.floor(model.columns / 2)));
    return page.walk(at(inside(Math.floor(patch / model.columns) + down, model.rows - 1), inside((patch % model.columns) + right, model.columns - 1)));
  }, stage);
  key(["ArrowUp", "ArrowDown", "PageUp", "PageDown", "Home", "End"], "↑ ↓", "in the table: from row to row", (event) => {
    const at = page.values.patch < 0 ? -1 : page.places[page.values.patch], end = page.rows.length - 1, { pageful } = page.table;
    const to = { ArrowUp: at - 1, ArrowDown: at + 1, PageUp: at - pageful, PageDown: at + pageful, Home: 0, End: end }[event.key];
    page.walk(page.rows[inside(to, end)]);
  }, grid);
  key(["ArrowLeft", "ArrowRight"], "← →", "in the table: from layer to layer", (event) => {
    page.step(event.key === "ArrowRight" ? 1 : -1);
    if (page.values.patch >= 0) page.walk(page.values.patch);
  }, grid);
  for (const [place, said] of [[stage, "on the picture: pin the patch, or let it go"], [grid, "in the table: pin the row, or let it go"]]) {
    key(["Enter", " "], "Enter", said, (event) => {
      const row = page.values.patch;
      if (row < 0) return false;
      page.pin(row, { extend: event.shiftKey });
      page.set({ patch: row });
      return true;
    }, place);
    place.addEventListener("blur", () => page.leave());
  }
  key([], "Shift+← →", "on the layers: several of them are counted together", () => false);
  key(["["], "[", "the layer before", () => page.step(-1));
  key(["]"], "]", "the next layer", () => page.step(1));
  key(["Escape"], "Esc", "nothing is pinned or chosen", () => page.letGo());
}
