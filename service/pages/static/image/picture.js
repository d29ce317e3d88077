// The picture with its grid of patches: readings in colour below, what is pinned or chosen above, and an outline that
// follows the pointer. What is drawn has its edges rounded to device pixels, so that lines are sharp; the outline is an
// element, whose edges the browser rounds.

import { figure, mark } from "../chips.js";
import { PIN_COLOURS } from "./pins.js";

const DRAG = 4; // pixels that a pointer may slip within a click
const MARGIN = 4; // pixels around the picture where it is scrolled

export class Picture {
  constructor(stage, page) {
    Object.assign(this, { stage, page, draft: null, spot: null });
    const { width, height } = page.model;
    stage.style.setProperty("--ratio", width / height); // for browsers whose attr() gives text alone
    this.fills = canvas("fills");
    this.marks = canvas("marks");
    this.outline = Object.assign(document.createElement("div"), { className: "outline", hidden: true });
    stage.append(this.fills, this.marks, this.outline);
    if (page.model.patches) this.#listen();
    new ResizeObserver(() => this.draw()).observe(stage);
  }

  #listen() {
    const { stage, page } = this;
    stage.tabIndex = 0;
    stage.setAttribute("role", "application");
    stage.setAttribute("aria-roledescription", "grid of patches");
    stage.setAttribute("aria-label", `${page.name}: ${page.model.rows} by ${page.model.columns} patches. Arrows walk, Enter pins.`);
    page.show(() => (stage.dataset.drag = page.values.tool));
    let from = null;
    stage.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      from = { x: event.clientX, y: event.clientY, path: [this.#place(event)], moved: false };
      from.kind = event.shiftKey ? "box" : page.values.tool;
      if (from.kind !== "pin") stage.setPointerCapture(event.pointerId);
    });
    stage.addEventListener("pointermove", (event) => {
      if (from && Math.hypot(event.clientX - from.x, event.clientY - from.y) > DRAG) from.moved = true;
      if (from?.moved && from.kind !== "pin") {
        const here = this.#place(event), [start] = from.path;
        if (from.kind === "lasso") from.path.push(here);
        else from.path = [start, [here[0], start[1]], here, [start[0], here[1]]];
        this.draft = from.path;
        page.point(null);
        this.drawMarks();
      } else if (event.pointerType === "mouse") this.#hover(event);
    });
    stage.addEventListener("pointerup", (event) => {
      const done = from;
      from = null;
      if (!done || event.button) return;
      if (done.moved && done.kind !== "pin") {
        this.draft = null;
        page.choose(this.#inside(done.path));
      } else if (!done.moved) {
        const patch = page.model.at(...this.#place(event));
        page.isHeld = event.pointerType !== "mouse"; // a finger does not hover
        if (patch !== null) page.pin(patch, { extend: event.shiftKey });
      }
    });
    stage.addEventListener("pointercancel", () => { from = this.draft = null; this.drawMarks(); });
    stage.addEventListener("pointerleave", () => page.point(null));
    // Safari selects the text behind the picture, too, and has the next drag move that text.
    for (const kind of ["selectstart", "dragstart"]) stage.addEventListener(kind, (event) => event.preventDefault());
  }

  // Where in the picture, in its pixels, an event happens.
  #place(event) {
    const bounds = this.stage.getBoundingClientRect(), { width, height } = this.page.model;
    return [((event.clientX - bounds.left) / bounds.width) * width, ((event.clientY - bounds.top) / bounds.height) * height];
  }

  #hover(event) {
    const patch = this.page.model.at(...this.#place(event));
    this.page.point(patch === null ? null : { row: patch, layer: null, from: this });
  }

  // The patches whose middle is inside a path.
  #inside(path) {
    const { model } = this.page, found = [];
    for (let patch = 0; patch < model.patches; patch++) {
      if (model.isPadding(patch)) continue;
      const [x0, y0, x1, y1] = model.box(patch);
      if (isInside(path, (x0 + x1) / 2, (y0 + y1) / 2)) found.push(patch);
    }
    return found;
  }

  // Edges of the picture's pixels on the stage, in pixels of the page; with a `ratio` rounded to the device's.
  #edges(values, whole, length, ratio = null) {
    return values.map((value) => (ratio ? Math.round((value / whole) * length * ratio) / ratio : (value / whole) * length));
  }

  // A patch's box on the stage.
  #box(patch, ratio = devicePixelRatio) {
    const { model } = this.page, [x0, y0, x1, y1] = model.box(patch);
    const [left, right] = this.#edges([x0, x1], model.width, this.width, ratio), [top, bottom] = this.#edges([y0, y1], model.height, this.height, ratio);
    return [left, top, right - left, bottom - top];
  }

  // Where a patch is in the window: what the tooltip keeps clear of.
  rect(patch) {
    const bounds = this.stage.getBoundingClientRect(), [x, y, width, height] = this.#box(patch);
    return { left: bounds.left + x, top: bounds.top + y, right: bounds.left + x + width, bottom: bounds.top + y + height };
  }

  point(row) {
    const { model } = this.page, hasBox = row !== null && row < model.patches && !model.isPadding(row);
    this.outline.hidden = !hasBox;
    if (!hasBox) return;
    const [x, y, width, height] = this.#box(row, null), { style } = this.outline;
    style.setProperty("left", `${x}px`);
    style.setProperty("top", `${y}px`);
    style.setProperty("width", `${width}px`);
    style.setProperty("height", `${height}px`);
    // Under the pointer it would run away.
    if (this.isLong && !this.stage.matches(":hover")) this.#reach(x, y, width, height);
  }

  // Scrolls a long picture to what is pointed at elsewhere.
  #reach(x, y, width, height) {
    const { parentElement: within } = this.stage;
    const nearest = (from, length, start, room) => Math.max(Math.min(from, start), start + length + 2 * MARGIN - room);
    within.scrollLeft = nearest(within.scrollLeft, width, x, within.clientWidth);
    within.scrollTop = nearest(within.scrollTop, height, y, within.clientHeight);
  }

  // All patches that decode to a token somewhere in the layers that are counted; null for none.
  spotlight(patches) {
    this.spot = patches;
    this.drawMarks();
  }

  draw() {
    ({ width: this.width, height: this.height } = this.stage.getBoundingClientRect());
    if (!this.width || !this.height) return;
    const { parentElement: within } = this.stage;
    this.isLong = within.scrollWidth > within.clientWidth || within.scrollHeight > within.clientHeight;
    for (const layer of [this.fills, this.marks]) {
      layer.width = Math.round(this.width * devicePixelRatio);
      layer.height = Math.round(this.height * devicePixelRatio);
    }
    this.drawFills();
    this.drawMarks();
    this.point(this.page.shown()?.row ?? null);
  }

  #pen(layer) {
    const pen = layer.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, layer.width, layer.height);
    pen.scale(devicePixelRatio, devicePixelRatio);
    return pen;
  }

  drawFills() {
    const { model, paint, values } = this.page, pen = this.#pen(this.fills);
    if (!model.patches) return;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (let patch = 0; patch < model.patches; patch++) {
      if (model.isPadding(patch)) continue;
      const box = this.#box(patch), kind = paint.kind(values.layer, patch);
      pen.globalAlpha = values.opacity;
      if (kind === "value") {
        pen.fillStyle = paint.colour(values.layer, patch, "picture");
        pen.fillRect(...box);
      } else if (values.opacity > 0) {
        pen.fillStyle = "rgb(0 0 0 / 40%)";
        pen.fillRect(...box);
        pen.fillStyle = paint.pattern(pen, kind, "picture");
        pen.fillRect(...box);
      }
      pen.globalAlpha = 1;
      if (kind === "value" && values.opacity > 0) this.#label(pen, box, patch);
    }
    this.#grid(pen);
    this.#margins(pen);
  }

  // What the patch decodes to where there is room, or the token's mark; of what is coloured by a number, that.
  #label(pen, [x, y, width, height], patch) {
    const { model, paint, values } = this.page;
    const token = model.token(values.layer, patch), size = Math.min(12, height * 0.4), room = Math.floor((width - 4) / (size * 0.6));
    let text = paint.share === null ? token.shown.replace(/^▁+/, "") || token.shown : paint.by === "agrees" ? String(model.agrees[patch]) : paint.by === "entropy" ? model.entropy(values.layer, patch).toFixed(1) : figure(paint.by === "heat" ? paint.share : model.probability(values.layer, patch)).replace(/^0/, "");
    if (size < 8 || room < 5) {
      if (paint.share !== null || Math.min(width, height) < 11) return;
      text = mark(token.id);
    } else if (text.length > room) text = `${text.slice(0, room - 1)}…`;
    pen.font = `${Math.max(8, size)}px ui-monospace, monospace`;
    pen.lineWidth = 2.5;
    pen.lineJoin = "round";
    pen.strokeStyle = "rgb(0 0 0 / 75%)";
    pen.strokeText(text, x + width / 2, y + height / 2);
    pen.fillStyle = "#fff";
    pen.fillText(text, x + width / 2, y + height / 2);
  }

  #grid(pen) {
    const { model } = this.page, thin = 1 / devicePixelRatio;
    const xs = this.#edges(model.x, model.width, this.width, devicePixelRatio), ys = this.#edges(model.y, model.height, this.height, devicePixelRatio);
    pen.fillStyle = "rgb(128 128 128 / 50%)";
    for (const x of xs) pen.fillRect(x, ys[0], thin, ys.at(-1) - ys[0]);
    for (const y of ys) pen.fillRect(xs[0], y, xs.at(-1) - xs[0], thin);
    this.edges = [xs[0], ys[0], xs.at(-1), ys.at(-1)];
  }

  // What no patch shows: the model never saw it.
  #margins(pen) {
    const [x0, y0, x1, y1] = this.edges;
    const outside = new Path2D();
    outside.rect(0, 0, this.width, this.height);
    outside.rect(x0, y0, x1 - x0, y1 - y0);
    pen.fillStyle = "rgb(0 0 0 / 60%)";
    pen.fill(outside, "evenodd");
    pen.save();
    pen.clip(outside, "evenodd");
    pen.strokeStyle = "rgb(255 255 255 / 35%)";
    pen.lineWidth = 1;
    pen.beginPath();
    for (let at = -this.height; at < this.width; at += 10) {
      pen.moveTo(at, 0);
      pen.lineTo(at + this.height, this.height);
    }
    pen.stroke();
    pen.restore();
  }

  drawMarks() {
    const { model, values } = this.page, pen = this.#pen(this.marks);
    if (!model.patches) return;
    const area = new Set(values.area);
    if (area.size) this.#area(pen, area);
    for (const patch of this.spot ?? []) if (!model.isPadding(patch)) ring(pen, this.#box(patch), "#fff", "#000");
    values.pins.forEach((patch, i) => {
      if (!model.isPadding(patch)) badge(pen, this.#box(patch), PIN_COLOURS[i % PIN_COLOURS.length], String(i + 1));
    });
    if (this.draft) {
      pen.beginPath();
      for (const [x, y] of this.draft) pen.lineTo((x / model.width) * this.width, (y / model.height) * this.height);
      pen.closePath();
      pen.fillStyle = "rgb(255 255 255 / 20%)";
      pen.fill();
      for (const [colour, width] of [["#000", 3], ["#fff", 1.5]]) Object.assign(pen, { strokeStyle: colour, lineWidth: width }).stroke();
    }
  }

  // The chosen patches: a line around what belongs together.
  #area(pen, area) {
    const { model } = this.page, lines = new Path2D();
    for (const patch of area) {
      const [x, y, width, height] = this.#box(patch), column = patch % model.columns;
      const line = (x0, y0, x1, y1) => { lines.moveTo(x0, y0); lines.lineTo(x1, y1); };
      if (!area.has(patch - model.columns)) line(x, y, x + width, y);
      if (!area.has(patch + model.columns)) line(x, y + height, x + width, y + height);
      if (column === 0 || !area.has(patch - 1)) line(x, y, x, y + height);
      if (column === model.columns - 1 || !area.has(patch + 1)) line(x + width, y, x + width, y + height);
    }
    pen.lineCap = "square";
    for (const [colour, width, dashes] of [["#000", 3, []], ["#fff", 2, [5, 4]]]) {
      Object.assign(pen, { strokeStyle: colour, lineWidth: width }).setLineDash(dashes);
      pen.stroke(lines);
    }
    pen.setLineDash([]);
  }
}

function canvas(name) {
  const made = Object.assign(document.createElement("canvas"), { className: name });
  made.setAttribute("aria-hidden", "true");
  return made;
}

function ring(pen, [x, y, width, height], inner, outer) {
  for (const [colour, inset, wide] of [[outer, 0.5, 1], [inner, 2, 2]]) {
    Object.assign(pen, { strokeStyle: colour, lineWidth: wide }).strokeRect(x + inset, y + inset, width - 2 * inset, height - 2 * inset);
  }
}

function badge(pen, box, colour, text) {
  ring(pen, box, colour, "#000");
  const [x, y, width, height] = box, size = Math.min(12, height * 0.75, width * 0.75);
  pen.font = `bold ${size}px system-ui, sans-serif`;
  const wide = pen.measureText(text).width + 4;
  pen.fillStyle = colour;
  pen.fillRect(x, y, wide, size + 3);
  pen.fillStyle = "#000";
  pen.textAlign = "left";
  pen.textBaseline = "top";
  pen.fillText(text, x + 2, y + 2);
}

// Whether a point is inside a closed path: whether a ray from it crosses the path an odd number of times.
function isInside(path, x, y) {
  let inside = false;
  for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
    const [xi, yi] = path[i], [xj, yj] = path[j];
    if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
}
