// How probable a token is at each pinned row, by layer: what was searched, or what each row decodes to at the layer that
// is shown. Where the token is not among the stored ones nothing is drawn, for nothing is known.

import { figure } from "../chips.js";
import { PIN_COLOURS } from "./pins.js";

const WIDTH = 560, HEIGHT = 190, LEFT = 34, RIGHT = 150, TOP = 10, BOTTOM = 30, MOST = 8;
const DASHES = ["", "6 3", "2 3", "8 3 2 3"];

const svg = (name, values = {}, text = null) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(values)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
};

export class Curves {
  constructor(element, page) {
    Object.assign(this, { element, page });
    this.title = Object.assign(document.createElement("h2"), { id: "curves-title" });
    this.about = document.createElement("p");
    this.chart = Object.assign(document.createElement("div"), { className: "scroll", tabIndex: 0 });
    this.chart.setAttribute("role", "group");
    this.chart.setAttribute("aria-labelledby", "curves-title");
    element.append(this.title, this.about, this.chart);
  }

  update() {
    const { page } = this, { model, values } = page, rows = page.pinned();
    this.title.textContent = "Probabilities of the pinned rows";
    if (!rows.length) {
      this.about.textContent = "Click patches to pin them: how probable their tokens are, layer by layer, is drawn here.";
      this.chart.replaceChildren();
      return;
    }
    const searched = model.ids.size > 0;
    const beyond = rows.length > MOST ? ` The first ${MOST} of ${rows.length} are drawn.` : "";
    this.about.textContent = `${searched ? `Of ${values.token}` : `Of what each decodes to at layer ${values.layer}`}, by layer. Gaps: not among the ${model.k} stored tokens.${beyond}`;
    this.chart.replaceChildren(this.#draw(rows.slice(0, MOST), searched));
  }

  #draw(rows, searched) {
    const { model, values } = this.page, lastLayer = Math.max(1, model.layers - 1);
    const x = (layer) => LEFT + (layer / lastLayer) * (WIDTH - LEFT - RIGHT), y = (p) => TOP + (1 - p) * (HEIGHT - TOP - BOTTOM);
    const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Probabilities by layer" });
    for (const p of [0, 0.5, 1]) {
      chart.append(svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(p), y2: y(p) }), svg("text", { class: "tick end", x: LEFT - 4, y: y(p) + 4 }, p));
    }
    const step = Math.ceil(model.layers / 12);
    for (let layer = 0; layer < model.layers; layer += step) chart.append(svg("text", { class: "tick middle", x: x(layer), y: HEIGHT - BOTTOM + 16 }, layer));
    chart.append(svg("text", { class: "tick middle", x: x(lastLayer / 2), y: HEIGHT - 2 }, "layer"));
    chart.append(svg("line", { class: "now", x1: x(values.layer), x2: x(values.layer), y1: y(0), y2: y(1) }));
    rows.forEach((row, i) => {
      const token = searched ? null : model.token(values.layer, row), ids = searched ? null : new Set(token ? [token.id] : []);
      const colour = PIN_COLOURS[this.page.pinned().indexOf(row) % PIN_COLOURS.length];
      const group = svg("g", { class: "curve", "data-row": row });
      group.append(svg("title", {}, `${model.name(row)}${token ? `: ${token.shown}` : ""}`));
      let run = [];
      const flush = () => {
        for (const kind of ["casing", "line"]) {
          if (run.length > 1) {
            const line = svg("polyline", { class: kind, points: run.map(({ at, p }) => `${x(at).toFixed(1)},${y(p).toFixed(1)}`).join(" "), "stroke-dasharray": DASHES[i % DASHES.length] });
            if (kind === "line") line.style.setProperty("stroke", colour);
            group.append(line);
          }
        }
        for (const { at, p } of run) {
          const dot = svg("circle", { cx: x(at).toFixed(1), cy: y(p).toFixed(1), r: 2.5, "data-layer": at, "data-p": p });
          dot.style.setProperty("fill", colour);
          dot.append(svg("title", {}, `layer ${at}: ${figure(p)}`));
          group.append(dot);
        }
        run = [];
      };
      for (const layer of model.read) {
        const { rank, probability } = model.found(layer, row, ids);
        if (rank && model.isRead(layer, row)) run.push({ at: layer, p: Math.min(1, probability) });
        else flush();
      }
      flush();
      const key = svg("rect", { x: WIDTH - RIGHT + 10, y: TOP + i * 19, width: 16, height: 14, class: "casing-box" });
      key.style.setProperty("fill", colour);
      const name = row < model.patches ? `patch ${row}` : model.texts[row - model.patches].name;
      group.append(key, svg("text", { class: "number", x: WIDTH - RIGHT + 18, y: TOP + 11 + i * 19 }, this.page.pinned().indexOf(row) + 1), svg("text", { class: "tick", x: WIDTH - RIGHT + 30, y: TOP + 11 + i * 19 }, token ? `${name}: ${token.shown}` : name));
      chart.append(group);
    });
    return chart;
  }
}
