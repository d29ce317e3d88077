// The whole table, a cell two by two pixels: in colour, or dotted where there is none. What is in view is framed; a click or a
// drag goes there.

const STEP = 2;

export class Minimap {
  constructor(element, table, page) {
    Object.assign(this, { page, table });
    this.element = Object.assign(document.createElement("div"), { className: "minimap" });
    this.element.setAttribute("aria-hidden", "true"); // the table itself is there for keys and for ears
    this.canvas = document.createElement("canvas");
    this.frame = Object.assign(document.createElement("div"), { className: "frame" });
    this.element.append(this.canvas, this.frame);
    element.append(this.element);
    let isDown = false;
    const go = (event) => {
      const bounds = this.element.getBoundingClientRect(), { scroller } = table;
      scroller.scrollTop = ((event.clientY - bounds.top) / bounds.height) * scroller.scrollHeight - scroller.clientHeight / 2;
      scroller.scrollLeft = ((event.clientX - bounds.left) / bounds.width) * scroller.scrollWidth - scroller.clientWidth / 2;
    };
    this.element.addEventListener("pointerdown", (event) => { isDown = true; this.element.setPointerCapture(event.pointerId); go(event); });
    this.element.addEventListener("pointermove", (event) => isDown && go(event));
    this.element.addEventListener("pointerup", () => (isDown = false));
    new ResizeObserver(() => this.scrolled()).observe(this.element);
  }

  draw() {
    const { model, paint, rows } = this.page, width = model.layers * STEP, height = model.count * STEP;
    Object.assign(this.canvas, { width, height });
    const image = new ImageData(width, height), pixels = new Uint32Array(image.data.buffer); // little-endian: alpha first
    const dot = 0xff888888;
    for (let index = 0; index < model.count; index++) {
      for (let layer = 0; layer < model.layers; layer++) {
        const kind = paint.kind(layer, rows[index]), at = index * STEP * width + layer * STEP;
        if (kind === "value") {
          const [r, g, b] = paint.rgb(layer, rows[index]), colour = 0xff000000 | (b << 16) | (g << 8) | r;
          pixels[at] = pixels[at + 1] = pixels[at + width] = pixels[at + width + 1] = colour;
        } else if (kind !== "zero") {
          pixels[at] = dot;
          if (kind !== "below") pixels[at + width + 1] = dot;
          if (kind === "unread") pixels[at + 1] = pixels[at + width] = dot;
        }
      }
    }
    this.canvas.getContext("2d").putImageData(image, 0, 0);
    this.scrolled();
  }

  scrolled() {
    const { scroller } = this.table, { style } = this.frame, share = (part, whole) => `${(100 * part) / Math.max(1, whole)}%`;
    style.setProperty("top", share(scroller.scrollTop, scroller.scrollHeight));
    style.setProperty("height", share(Math.min(scroller.clientHeight, scroller.scrollHeight), scroller.scrollHeight));
    style.setProperty("left", share(scroller.scrollLeft, scroller.scrollWidth));
    style.setProperty("width", share(Math.min(scroller.clientWidth, scroller.scrollWidth), scroller.scrollWidth));
  }
}
