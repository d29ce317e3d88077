// The page's controls, and the key of its colours. What each is set to is a field of the page's state.

import { latest } from "../api.js";
import { COLOURINGS, PATTERNS, ramp } from "./paint.js";
import { folded } from "./model.js";

export const TOOLS = { pin: "Pin", lasso: "Lasso", box: "Box" };
export const ORDERS = { raster: "row by row", similar: "by similarity", first: "by the first layer that reads the token" };
const OFFERED = 20;

const made = (name, values = {}, ...children) => {
  const element = Object.assign(document.createElement(name), values);
  element.append(...children);
  return element;
};

function select(id, label, options, page, field) {
  const choice = made("select", { id, onchange: () => page.set({ [field]: choice.value }, { step: true }) });
  choice.append(...Object.entries(options).map(([value, said]) => new Option(said, value)));
  page.show(() => (choice.value = page.values[field]));
  return made("span", { className: "control" }, made("label", { htmlFor: id, textContent: label }), choice);
}

function slider(id, label, field, page) {
  const range = made("input", { id, type: "range", min: 0, max: 1, step: 0.01, oninput: () => page.set({ [field]: Number(range.value) }) });
  const said = made("output", { htmlFor: id });
  page.show(() => {
    range.value = page.values[field];
    said.textContent = page.values[field].toFixed(2);
  });
  return made("span", { className: "control" }, made("label", { htmlFor: id, textContent: label }), range, said);
}

function search(page) {
  const words = made("datalist", { id: "words" });
  const field = made("input", { id: "word", type: "search", autocomplete: "off", spellcheck: false, placeholder: "a word, ▁piece or id" });
  field.setAttribute("list", "words");
  const said = made("output", { id: "word-said", className: "faint" });
  const take = latest(async (text) => text, 200);
  field.oninput = async () => {
    offer(page, words, field.value);
    const text = (await take(field.value)).trim();
    page.set({ token: text, ...(text ? { colour: "heat" } : page.values.colour === "heat" ? { colour: "token" } : {}) });
  };
  page.show(() => {
    if (document.activeElement !== field) field.value = page.values.token;
    const { model, values } = page, found = model.named(values.token), [first] = found;
    said.textContent = !values.token ? "" : first ? `${found.slice(0, 3).map((token) => `${token.shown} (${token.id})`).join(", ")}${found.length > 3 ? " …" : ""}` : `not among the ${model.k} best tokens anywhere here`;
  });
  return made("span", { className: "control" }, made("label", { htmlFor: "word", textContent: "Token" }), field, words, said);
}

// Tokens of this image whose words begin so.
function offer(page, words, text) {
  const begun = folded(text), found = new Set();
  for (const lens of Object.values(page.model.lenses)) {
    for (const { shown } of lens.tokens) {
      if (found.size >= OFFERED) break;
      if (begun && folded(shown).startsWith(begun)) found.add(shown.startsWith("▁") ? folded(shown) : shown);
    }
  }
  words.replaceChildren(...[...found].sort().map((word) => new Option(word)));
}

export function controls(page, tools, order) {
  const picks = made("span", { className: "control" });
  picks.setAttribute("role", "group");
  picks.setAttribute("aria-label", "What a drag on the picture does");
  for (const [tool, name] of Object.entries(TOOLS)) {
    const button = made("button", { type: "button", textContent: name, onclick: () => page.set({ tool }) });
    button.dataset.tool = tool;
    page.show(() => button.setAttribute("aria-pressed", page.values.tool === tool));
    picks.append(button);
  }
  tools.append(select("colour", "Colour by", COLOURINGS, page, "colour"), search(page));
  if (page.model.patches) {
    tools.append(slider("threshold", "Threshold", "threshold", page), slider("opacity", "Opacity", "opacity", page), picks);
    const about = document.getElementById("order-said");
    page.show(() => (about.textContent = page.values.order === "similar" ? "Behind each patch stands the one that decodes to the same token at most layers, beginning with patch 0." : page.values.order === "first" ? (page.model.ids.size ? "Patches that never decode to the token stand last." : "Search for a token: rows stand by the first layer that decodes to it.") : ""));
    order.append(select("rows", "Rows", ORDERS, page, "order"));
  } else tools.append(slider("threshold", "Threshold", "threshold", page));
}

// What the colours and the patterns mean.
export function key(element, page) {
  const scale = made("canvas", { className: "scale", width: 120, height: 12 }), pen = scale.getContext("2d");
  for (let x = 0; x < 120; x++) { pen.fillStyle = ramp(x / 119); pen.fillRect(x, 0, 1, 12); }
  const low = made("span"), high = made("span"), what = made("span");
  const ramped = made("span", { className: "entry" }, low, scale, high, what);
  const patterns = Object.entries(PATTERNS).map(([kind, meaning]) => {
    const sample = made("canvas", { className: "sample", width: 24, height: 16 });
    const entry = made("span", { className: "entry" }, sample, meaning);
    return { kind, sample, entry };
  });
  const plain = made("span", { className: "entry", textContent: "Each token has a colour and a mark of its own." });
  element.append(plain, ramped, ...patterns.map(({ entry }) => entry));
  page.show(() => {
    const { paint, model, values } = page;
    plain.hidden = paint.by !== "token";
    ramped.hidden = paint.by === "token";
    low.textContent = "0";
    high.textContent = paint.by === "entropy" ? paint.mostEntropy.toFixed(1) : paint.by === "agrees" ? model.last : "1";
    what.textContent = paint.by === "entropy" ? "nats" : paint.by === "agrees" ? "layer" : paint.by === "heat" ? `probability of ${values.token}` : "probability";
    for (const { kind, sample, entry } of patterns) {
      entry.hidden = kind === "unread" ? model.read.length === model.layers : kind === "below" ? values.threshold === 0 : paint.by !== "heat";
      const drawn = sample.getContext("2d");
      drawn.fillStyle = "#333";
      drawn.fillRect(0, 0, 24, 16);
      drawn.fillStyle = paint.pattern(drawn, kind, "picture");
      drawn.fillRect(0, 0, 24, 16);
    }
  });
}
