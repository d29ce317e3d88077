// How a reading looks, on the picture and in the table: a colour, or a pattern where there is nothing to colour by.

import { hue } from "../chips.js";

export const ZERO = 0.0005; // what is less is written as 0.000

// viridis (matplotlib), at equal distances
const STOPS = ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"].map((hex) =>
  [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)),
);
const RAMP = Array.from({ length: 256 }, (_, i) => {
  const at = (i / 255) * (STOPS.length - 1), low = Math.min(STOPS.length - 2, Math.floor(at));
  return STOPS[low].map((value, part) => Math.round(value + (STOPS[low + 1][part] - value) * (at - low)));
});
const css = ([r, g, b]) => `rgb(${r} ${g} ${b})`;
const RAMP_CSS = RAMP.map(css);
const onRamp = RAMP.map(([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b > 120 ? "#000" : "#fff"));
export const ramp = (share) => RAMP_CSS[Math.round(255 * Math.min(1, Math.max(0, share)))];

function ofHsl(h, s, l) {
  const part = (n) => {
    const k = (n + h / 30) % 12;
    return Math.round(255 * (l - s * Math.min(l, 1 - l) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  };
  return [part(0), part(8), part(4)];
}

// What stands for a reading that has no colour. Each looks different without any colour, too.
export const PATTERNS = {
  unknown: "not among the stored tokens: its probability is not known",
  below: "below the threshold",
  zero: "no probability: less than 0.0005",
  unread: "a layer or a patch that was not read",
};

function tile(kind, dark) {
  const canvas = new OffscreenCanvas(8, 8), pen = canvas.getContext("2d");
  const line = (from, to) => { pen.beginPath(); pen.moveTo(...from); pen.lineTo(...to); pen.stroke(); };
  pen.strokeStyle = pen.fillStyle = dark;
  pen.lineWidth = 1;
  if (kind === "unknown") for (const shift of [-8, 0, 8]) line([shift, 8], [shift + 8, 0]);
  if (kind === "below") for (const [x, y] of [[1, 1], [5, 5]]) pen.fillRect(x, y, 2, 2);
  if (kind === "zero") line([2, 4.5], [6, 4.5]);
  if (kind === "unread") for (const at of [0.5, 4.5]) { line([at, 0], [at, 8]); line([0, at], [8, at]); }
  return canvas;
}

export class Paint {
  constructor(model) {
    this.model = model;
    this.tokens = new Map();
    this.patterns = new Map();
    const all = [];
    for (const lens of Object.values(model.lenses)) for (const layer of model.read) for (let i = 0; i < lens.positions; i++) all.push(lens.entropy(layer, i));
    this.mostEntropy = Math.max(1e-6, ...chunked(all));
    this.theme();
  }

  // Light or dark: colours are the style sheet's.
  theme() {
    const style = getComputedStyle(document.documentElement), value = (name) => style.getPropertyValue(name).trim();
    this.colours = Object.fromEntries(["text", "faint", "page", "raised", "line", "accent", "now", "chip-text"].map((name) => [name, value(`--${name}`)]));
    this.chroma = parseFloat(value("--chip-chroma")) / 100;
    this.light = parseFloat(value("--chip-light")) / 100;
    this.tokens.clear();
    this.patterns.clear();
  }

  set({ colour, threshold }) {
    this.by = colour === "heat" && !this.model.ids?.size ? "token" : colour;
    this.threshold = threshold;
  }

  // "value", or which of PATTERNS stands there; then `share` is what the ramp shows, or null where the token's colour does.
  kind(layer, row) {
    const { model, by, threshold } = this;
    this.share = null;
    if (!model.isRead(layer, row)) return "unread";
    if (by === "heat") {
      const { rank, probability, most } = model.found(layer, row);
      if (rank === 0) return most < ZERO ? "zero" : most < threshold ? "below" : "unknown";
      if (probability < ZERO) return "zero";
      if (probability < threshold) return "below";
      this.share = probability;
      return "value";
    }
    const probability = model.probability(layer, row);
    if (probability < threshold) return "below";
    if (by === "probability") this.share = probability;
    if (by === "entropy") this.share = model.entropy(layer, row) / this.mostEntropy;
    if (by === "agrees") this.share = model.last ? model.agrees[row] / model.last : 0;
    return "value";
  }

  #ofToken(id) {
    let found = this.tokens.get(id);
    if (!found) {
      const table = ofHsl(hue(id), this.chroma, this.light), picture = ofHsl(hue(id), 0.9, 0.55);
      found = { table: css(table), picture: css(picture), rgb: table };
      this.tokens.set(id, found);
    }
    return found;
  }

  // Behind `kind`: the colour of a value, in the table or on the picture, and of text on it.
  colour(layer, row, where) {
    return this.share === null ? this.#ofToken(this.model.token(layer, row).id)[where] : ramp(this.share);
  }

  textColour() {
    return this.share === null ? this.colours["chip-text"] : onRamp[Math.round(255 * Math.min(1, Math.max(0, this.share)))];
  }

  rgb(layer, row) {
    return this.share === null ? this.#ofToken(this.model.token(layer, row).id).rgb : RAMP[Math.round(255 * Math.min(1, Math.max(0, this.share)))];
  }

  // What fills a canvas with a pattern; on the picture on a ground of its own, so that it is seen on any.
  pattern(pen, kind, where) {
    const key = `${kind} ${where}`;
    if (!this.patterns.has(key)) this.patterns.set(key, pen.createPattern(tile(kind, where === "picture" ? "#fff" : this.colours.faint), "repeat"));
    return this.patterns.get(key);
  }
}

// Of many values the largest of each thousand: a call bears only so many.
function chunked(values) {
  const found = [];
  for (let i = 0; i < values.length; i += 1000) found.push(Math.max(...values.slice(i, i + 1000).filter((value) => !Number.isNaN(value))));
  return found;
}
