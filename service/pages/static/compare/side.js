// One of the two sides: its picture with the patches, and what the patch under the cursor reads.

import { getBytes, getJson, page, pixels } from "../api.js";
import { chip, figure } from "../chips.js";
import { Lens } from "../lens.js";

const SVG = "http://www.w3.org/2000/svg";
const SHOWN = 5;

function svg(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  parent.append(element);
  return element;
}

export class Side {
  // `element` is the fieldset; `moved` is called with where the cursor is, `held` with where it was clicked: a patch.
  constructor(element, { moved, held }) {
    this.picture = element.querySelector(".picture");
    this.said = element.querySelector(".said");
    this.link = element.querySelector(".name a");
    this.patch = null;
    const at = (event) => {
      const box = this.picture.getBoundingClientRect();
      if (!this.image || !box.width) return null;
      return this.patchAt(((event.clientX - box.left) / box.width) * this.image.width, ((event.clientY - box.top) / box.height) * this.image.height);
    };
    this.picture.addEventListener("pointermove", (event) => moved(at(event)));
    this.picture.addEventListener("pointerleave", () => moved(null));
    this.picture.addEventListener("click", (event) => held(at(event)));
    this.picture.addEventListener("keydown", (event) => {
      const ways = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
      if (!this.image || event.ctrlKey || event.metaKey || event.altKey) return;
      if (ways[event.key]) {
        const [rows, columns] = this.image.grid, [down, right] = ways[event.key];
        const now = this.patch ?? 0;
        const row = Math.min(rows - 1, Math.max(0, Math.floor(now / columns) + (this.patch === null ? 0 : down)));
        const column = Math.min(columns - 1, Math.max(0, (now % columns) + (this.patch === null ? 0 : right)));
        moved(row * columns + column);
      } else if (event.key === "Enter" || event.key === " ") held(this.patch);
      else return;
      event.preventDefault();
    });
  }

  // Fetches an image of a run; what was under way for another one is forgotten.
  async load(run, number) {
    const mine = (this.loading = Symbol(number)), of = new URLSearchParams({ corpus: run });
    const [image, bytes] = await Promise.all([
      getJson(`/v1/images/${number}?${of}`),
      getBytes(`/v1/images/${number}/lens?site=patch&k=${SHOWN}&${of}`),
    ]);
    if (this.loading !== mine) return false;
    Object.assign(this, { run, number, image, lens: new Lens(bytes) });
    const { width, height } = image;
    const picture = Object.assign(document.createElement("img"), { alt: image.image, width, height });
    picture.src = pixels(number, 1024, run);
    const over = document.createElementNS(SVG, "svg");
    over.setAttribute("viewBox", `0 0 ${width} ${height}`);
    over.setAttribute("aria-hidden", "true");
    this.differs = svg("path", { class: "differs", d: "" }, over);
    this.cursor = svg("g", { class: "cursor", visibility: "hidden" }, over);
    this.outlines = ["halo", "edge"].map((name) => svg("rect", { class: name }, this.cursor));
    this.picture.style.setProperty("--ratio", width / height);
    this.picture.replaceChildren(picture, over);
    return true;
  }

  // There is nothing to show of an image.
  clear(run, number) {
    this.image = null;
    this.picture.replaceChildren();
    this.#link(page(`images/${number}`, run), `image ${number}`);
  }

  // A file may have no page of it.
  #link(where, text) {
    if (where) this.link.href = where;
    else this.link.removeAttribute("href");
    this.link.textContent = text;
  }

  link_to(layer, patch) {
    const parts = new URLSearchParams({ layer, ...(patch === null ? {} : { pins: patch }) });
    this.#link(page(`images/${this.number}?${parts}`, this.run), this.image.image);
  }

  // A patch's edges: left, top, right, bottom, in pixels.
  box(patch) {
    const columns = this.image.grid[1], row = Math.floor(patch / columns), column = patch % columns;
    return [this.image.x[column], this.image.y[row], this.image.x[column + 1], this.image.y[row + 1]];
  }

  patchAt(x, y) {
    const place = (edges, value) => edges.findIndex((edge, at) => value >= edge && value < edges[at + 1]);
    const column = place(this.image.x, x), row = place(this.image.y, y);
    return column < 0 || row < 0 ? null : row * this.image.grid[1] + column;
  }

  // The patch at the same place of another grid.
  same(patch, grid) {
    if (patch === null) return null;
    const [rows, columns] = this.image.grid, [otherRows, otherColumns] = grid;
    const row = Math.floor((Math.floor(patch / otherColumns) + 0.5) / otherRows * rows);
    const column = Math.floor(((patch % otherColumns) + 0.5) / otherColumns * columns);
    return row * columns + column;
  }

  mark(patches) {
    this.differs.setAttribute("d", patches.map((patch) => {
      const [x0, y0, x1, y1] = this.box(patch);
      return `M${x0} ${y0}H${x1}V${y1}H${x0}z`;
    }).join(""));
  }

  show(patch, layer, isHeld) {
    this.patch = patch;
    this.cursor.setAttribute("visibility", patch === null ? "hidden" : "visible");
    this.cursor.classList.toggle("held", isHeld);
    this.link_to(layer, patch);
    if (patch === null) {
      this.said.replaceChildren();
      return;
    }
    const [x0, y0, x1, y1] = this.box(patch);
    for (const outline of this.outlines) {
      for (const [name, value] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 })) outline.setAttribute(name, value);
    }
    const columns = this.image.grid[1], list = document.createElement("ol");
    for (let rank = 0; rank < this.lens.k; rank++) {
      const token = this.lens.at(layer, patch, rank);
      if (!token) continue;
      const item = document.createElement("li");
      item.append(chip(token, { of: this.run }), ` ${figure(this.lens.probability(layer, patch, rank))}`);
      list.append(item);
    }
    const head = document.createElement("p");
    head.textContent = `Patch ${patch} (row ${Math.floor(patch / columns)}, column ${patch % columns}), layer ${layer}${isHeld ? ", held" : ""}`;
    if (!list.children.length) head.textContent += ": not read";
    this.said.replaceChildren(head, list);
  }
}
