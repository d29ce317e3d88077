// Patches x layers: a canvas that draws the cells in view, under a scroll container that is as large as all of them.
// What follows the pointer lies on top as elements, so that pointing draws nothing anew. The active row is there as
// elements, too, for those who hear the table.

import { figure, shown } from "../chips.js";
import { PIN_COLOURS } from "./pins.js";

const ROW = 22, HEAD = 22, LABEL = 98, CELL = 66, WIDEST = 130;

const added = (parent, name, values = {}) => {
  const made = Object.assign(document.createElement(name), values);
  parent.append(made);
  return made;
};

// As much of a text as there is room for.
function within(pen, text, room) {
  let part = text;
  while (part.length > 1 && pen.measureText(part).width > room) part = `${part.replace(/…$/, "").slice(0, -1)}…`;
  return part;
}

export class Table {
  constructor(element, page) {
    Object.assign(this, { page, fitted: new Map() });
    const { model } = page;
    this.scroller = added(element, "div", { className: "scroller", tabIndex: 0 });
    this.scroller.setAttribute("role", "grid");
    this.scroller.setAttribute("aria-label", "What each row reads at each layer. Arrows walk, Enter pins.");
    this.scroller.setAttribute("aria-rowcount", model.count);
    this.scroller.setAttribute("aria-colcount", model.layers + 1);
    this.space = added(this.scroller, "div", { className: "space" });
    this.spoken = added(this.space, "div", { className: "hidden spoken" });
    this.head = added(this.space, "canvas", { className: "head" });
    this.body = added(this.space, "canvas", { className: "body" });
    for (const canvas of [this.head, this.body]) canvas.setAttribute("role", "presentation");
    this.rowMark = added(this.space, "div", { className: "row-mark", hidden: true });
    this.cellMark = added(this.space, "div", { className: "cell-mark", hidden: true });
    this.#listen();
    new ResizeObserver(() => this.draw()).observe(this.scroller);
  }

  #listen() {
    const { scroller, page } = this;
    let pointer = null;
    const hover = () => {
      const place = pointer && this.#at(pointer);
      page.point(place?.row !== undefined ? { ...place, from: this } : null);
    };
    scroller.addEventListener("scroll", () => {
      this.drawHead();
      this.drawBody();
      if (pointer) hover();
      page.scrolled();
    });
    scroller.addEventListener("pointermove", (event) => { if (event.pointerType === "mouse") { pointer = event; hover(); } });
    scroller.addEventListener("pointerleave", () => { pointer = null; page.point(null); });
    scroller.addEventListener("click", (event) => {
      const { row, layer } = this.#at(event) ?? {}, isOther = layer !== undefined && layer !== null && layer !== page.values.layer;
      if (isOther) page.set({ layer, range: "" });
      if (row === undefined) return;
      page.isHeld = ["touch", "pen"].includes(event.pointerType); // these do not hover
      if (isOther && page.pinned().includes(row)) page.set({ patch: row }); // it was the layer that was meant
      else page.pin(row, { extend: event.shiftKey });
    });
  }

  // The row and the layer below a place of the window; of the head no row, of the labels no layer.
  #at({ clientX, clientY }) {
    const bounds = this.scroller.getBoundingClientRect();
    const x = clientX - bounds.left - this.scroller.clientLeft, y = clientY - bounds.top - this.scroller.clientTop;
    if (x >= this.scroller.clientWidth || y >= this.scroller.clientHeight) return null;
    const column = x < LABEL ? null : Math.floor((x + this.scroller.scrollLeft - LABEL) / this.cell);
    const layer = column !== null && column < this.page.model.layers ? column : null;
    if (y < HEAD) return { layer };
    const index = Math.floor((y - HEAD + this.scroller.scrollTop) / ROW);
    return index < this.page.model.count ? { row: this.page.rows[index], layer } : null;
  }

  // Where a cell is in the window.
  rect(row, layer) {
    const bounds = this.scroller.getBoundingClientRect();
    const top = bounds.top + this.scroller.clientTop + HEAD + this.page.places[row] * ROW - this.scroller.scrollTop;
    const left = bounds.left + this.scroller.clientLeft + (layer === null ? 0 : LABEL + layer * this.cell - this.scroller.scrollLeft);
    return { left, top, right: left + (layer === null ? LABEL : this.cell), bottom: top + ROW };
  }

  point(row, layer) {
    this.rowMark.hidden = row === null;
    this.cellMark.hidden = row === null || layer === null;
    if (row === null) return;
    const y = HEAD + this.page.places[row] * ROW;
    this.rowMark.style.setProperty("transform", `translateY(${y}px)`);
    this.rowMark.dataset.row = row;
    if (layer === null) return;
    const left = Math.max(LABEL + layer * this.cell, this.scroller.scrollLeft + LABEL), right = LABEL + (layer + 1) * this.cell;
    this.cellMark.style.setProperty("transform", `translate(${left}px, ${y}px)`);
    this.cellMark.style.setProperty("width", `${Math.max(0, right - left)}px`);
  }

  // Scroll no further than needed for a row, and a layer, to be in view.
  reveal(row, layer) {
    const { scroller } = this, top = this.page.places[row] * ROW, height = scroller.clientHeight - HEAD;
    if (top < scroller.scrollTop || top + ROW > scroller.scrollTop + height) scroller.scrollTop = top - Math.floor((height - ROW) / 2);
    this.revealLayer(layer);
  }

  revealLayer(layer) {
    const { scroller } = this;
    const left = layer * this.cell, width = scroller.clientWidth - LABEL;
    if (left < scroller.scrollLeft || left + this.cell > scroller.scrollLeft + width) scroller.scrollLeft = left - (width - this.cell) / 2;
  }

  // The active row as elements: what is read aloud.
  speak(row) {
    const { model, values } = this.page;
    if (row === null) {
      this.scroller.removeAttribute("aria-activedescendant");
      this.spoken.replaceChildren();
      this.spoken.removeAttribute("role"); // a row that has no cells is none
      return;
    }
    this.spoken.setAttribute("role", "row");
    this.spoken.setAttribute("aria-rowindex", this.page.places[row] + 1);
    const span = (role, values) => {
      const made = Object.assign(document.createElement("span"), values);
      made.setAttribute("role", role);
      return made;
    };
    const cells = [span("rowheader", { textContent: model.name(row) })];
    for (let layer = 0; layer < model.layers; layer++) {
      const token = model.token(layer, row);
      const text = model.isRead(layer, row) && token ? `layer ${layer}: ${token.shown}, ${figure(model.probability(layer, row))}` : `layer ${layer}: not read`;
      cells.push(span("gridcell", { textContent: text, id: `cell-${layer}` }));
    }
    cells.forEach((cell, i) => cell.setAttribute("aria-colindex", i + 1));
    this.spoken.replaceChildren(...cells);
    this.scroller.setAttribute("aria-activedescendant", `cell-${values.layer}`);
  }

  get pageful() {
    return Math.max(1, Math.floor((this.scroller.clientHeight - HEAD) / ROW) - 1);
  }

  // --- drawing --------------------------------------------------------------------------------------------------

  draw() {
    const { model } = this.page, { scroller } = this;
    this.cell = Math.min(WIDEST, Math.max(CELL, Math.floor((scroller.clientWidth - LABEL) / model.layers)));
    this.space.style.setProperty("width", `${LABEL + this.cell * model.layers}px`);
    this.space.style.setProperty("height", `${HEAD + ROW * model.count}px`);
    this.width = Math.min(scroller.clientWidth, LABEL + this.cell * model.layers);
    this.height = scroller.clientHeight - HEAD;
    for (const [canvas, height] of [[this.head, HEAD], [this.body, this.height]]) {
      canvas.width = Math.round(this.width * devicePixelRatio);
      canvas.height = Math.round(Math.max(1, height) * devicePixelRatio);
      canvas.style.setProperty("width", `${this.width}px`);
      canvas.style.setProperty("height", `${Math.max(1, height)}px`);
    }
    this.fitted.clear();
    this.drawHead();
    this.drawBody();
  }

  #pen(canvas) {
    const pen = canvas.getContext("2d"), { colours } = this.page.paint;
    pen.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    pen.fillStyle = colours.page;
    pen.fillRect(0, 0, this.width, canvas.height);
    pen.font = "12px ui-monospace, monospace";
    pen.textBaseline = "middle";
    return pen;
  }

  #columns() {
    const from = Math.floor(this.scroller.scrollLeft / this.cell);
    return [from, Math.min(this.page.model.layers - 1, from + Math.ceil((this.width - LABEL) / this.cell))];
  }

  drawHead() {
    const { page } = this, { colours } = page.paint, pen = this.#pen(this.head), [from, to] = this.#columns(), counted = new Set(page.counted());
    pen.textAlign = "center";
    for (let layer = from; layer <= to; layer++) {
      const x = LABEL + layer * this.cell - this.scroller.scrollLeft;
      if (layer === page.values.layer || counted.has(layer)) {
        pen.fillStyle = colours.now;
        pen.fillRect(x, 0, this.cell, HEAD);
      }
      pen.fillStyle = layer === page.values.layer ? colours.text : colours.faint;
      pen.fillText(String(layer), x + this.cell / 2, HEAD / 2);
    }
    pen.fillStyle = colours.page;
    pen.fillRect(0, 0, LABEL, HEAD);
    pen.fillStyle = colours.faint;
    pen.textAlign = "left";
    pen.fillText(page.model.patches ? "patch" : "token", 14, HEAD / 2);
    pen.textAlign = "right";
    pen.fillText("layer", LABEL - 3, HEAD / 2);
    pen.fillStyle = colours.line;
    pen.fillRect(0, HEAD - 1, this.width, 1);
  }

  drawBody() {
    const { page } = this, { model, paint, rows, values } = page, { colours } = paint, pen = this.#pen(this.body);
    const [from, to] = this.#columns(), top = this.scroller.scrollTop, first = Math.floor(top / ROW);
    const end = Math.min(model.count, first + Math.ceil(this.height / ROW) + 1);
    for (let index = first; index < end; index++) {
      const row = rows[index], y = index * ROW - top;
      for (let layer = from; layer <= to; layer++) this.#cell(pen, layer, row, LABEL + layer * this.cell - this.scroller.scrollLeft, y);
    }
    pen.strokeStyle = colours.text; // the layer that is shown
    const x = LABEL + values.layer * this.cell - this.scroller.scrollLeft;
    pen.strokeRect(x + 0.5, -1, this.cell - 1, Math.min(this.height + 2, model.count * ROW - top + 1));
    pen.fillStyle = colours.page;
    pen.fillRect(0, 0, LABEL, this.height);
    const pinned = new Map(page.pinned().map((row, i) => [row, i]));
    for (let index = first; index < end; index++) this.#label(pen, rows[index], index * ROW - top, pinned.get(rows[index]));
  }

  #cell(pen, layer, row, x, y) {
    const { model, paint } = this.page, kind = paint.kind(layer, row), width = this.cell - 1, height = ROW - 1;
    pen.fillStyle = kind === "value" ? paint.colour(layer, row, "table") : paint.pattern(pen, kind, "table");
    pen.fillRect(x, y, width, height);
    if (kind === "unread") return;
    const text = this.#fit(pen, model.token(layer, row));
    if (kind !== "value") { // a ground for the text, that patterns would make hard to read
      pen.fillStyle = paint.colours.page;
      pen.fillRect(x + 3, y + 2, pen.measureText(text).width + 4, height - 4);
    }
    pen.fillStyle = kind === "value" ? paint.textColour() : paint.colours.faint;
    pen.textAlign = "left";
    pen.fillText(text, x + 5, y + height / 2 + 0.5);
  }

  // As much of a token as a cell has room for.
  #fit(pen, { id, shown }) {
    let text = this.fitted.get(id);
    if (text === undefined) {
      text = within(pen, shown, this.cell - 9);
      this.fitted.set(id, text);
    }
    return text;
  }

  #label(pen, row, y, pin) {
    const { model, paint } = this.page, { colours } = paint, middle = y + ROW / 2;
    pen.textAlign = "left";
    if (pin !== undefined) {
      pen.fillStyle = PIN_COLOURS[pin % PIN_COLOURS.length];
      pen.fillRect(0, y + 1, 18, ROW - 3);
      pen.fillStyle = "#000";
      pen.fillText(pin < 99 ? String(pin + 1) : "+", 2, middle);
    }
    pen.fillStyle = pin === undefined ? colours.faint : colours.text;
    if (row < model.patches) {
      const isPadding = model.isPadding(row);
      if (isPadding) {
        pen.save();
        pen.fillStyle = paint.pattern(pen, "unread", "table");
        pen.fillRect(52, y + 3, LABEL - 56, ROW - 7);
        pen.restore();
      }
      pen.fillText(String(row), 20, middle);
      pen.textAlign = "right";
      if (isPadding) {
        pen.fillStyle = colours.page;
        pen.fillRect(LABEL - 34, y + 4, 26, ROW - 9);
        pen.fillStyle = colours.text;
        pen.fillText("pad", LABEL - 10, middle);
      } else pen.fillText(`${Math.floor(row / model.columns)},${row % model.columns}`, LABEL - 5, middle);
      return;
    }
    const { site, position, token, name } = model.texts[row - model.patches];
    const label = name === "last" ? name : `${site[0]}${position}`, left = 26 + pen.measureText(label).width;
    pen.fillText(label, 20, middle);
    pen.fillStyle = colours.text;
    pen.fillText(within(pen, shown(token), LABEL - 4 - left), left, middle);
    if (row === model.patches) {
      pen.fillStyle = colours.text;
      pen.fillRect(0, y, this.width, 1);
    }
  }
}
