// The page's controls, and the key of its colours. What each is set to is a field of the page's state.

import { latest } from "../api.js";
import { PATTERNS, ramp } from "./paint.js";
import { folded } from "./model.js";

const OFFERED = 20;

const element = (id) => document.getElementById(id);
const made = (name, values = {}, ...children) => {
  const element = Object.assign(document.createElement(name), values);
  element.append(...children);
  return element;
};

// What a control offers; of one that is not there, as where no patches were read, its usual value alone.
export const offered = (id, usual) => [...(element(id)?.options ?? [{ value: usual }])].map(({ value }) => value);
export const TOOLS = ["pin", "lasso", "box"];

function select(id, page, field) {
  const choice = element(id);
  if (!choice) return;
  choice.onchange = () => page.set({ [field]: choice.value }, { step: true });
  page.show(() => (choice.value = page.values[field]));
}

function slider(field, page) {
  const range = element(field);
  if (!range) return;
  range.oninput = () => page.set({ [field]: Number(range.value) });
  page.show(() => {
    range.value = page.values[field];
    range.nextElementSibling.textContent = page.values[field].toFixed(2);
  });
}

function search(page) {
  const field = element("word"), said = element("word-said"), take = latest(async (text) => text, 200);
  field.oninput = async () => {
    offer(page, element("words"), field.value);
    const text = (await take(field.value)).trim();
    page.set({ token: text, ...(text ? { colour: "heat" } : page.values.colour === "heat" ? { colour: "token" } : {}) });
  };
  page.show(() => {
    if (document.activeElement !== field) field.value = page.values.token;
    const { model, values } = page, found = model.named(values.token);
    const names = found.slice(0, 3).map((token) => `${token.shown} (${token.id})`).join(", ");
    said.textContent = !values.token ? "" : found.length ? `${names}${found.length > 3 ? " …" : ""}` : `not among the ${model.k} best tokens anywhere here`;
  });
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

// What the order of the rows is, where that does not go without saying.
function orderSaid({ order }, { ids }) {
  if (order === "similar") return "Behind each patch stands the one that decodes to the same token at most layers, beginning with patch 0.";
  if (order === "raster") return "";
  return ids.size ? "Patches that never decode to the token stand last." : "Search for a token: rows stand by the first layer that decodes to it.";
}

export function controls(page) {
  select("colour", page, "colour");
  select("rows", page, "order");
  search(page);
  slider("threshold", page);
  slider("opacity", page);
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.onclick = () => page.set({ tool: button.dataset.tool });
    page.show(() => button.setAttribute("aria-pressed", page.values.tool === button.dataset.tool));
  }
  page.show(() => (element("order-said").textContent = orderSaid(page.values, page.model)));
  element("tools").disabled = false;
}

// What the colours and the patterns mean.
export function key(page) {
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
  element("key").append(plain, ramped, ...patterns.map(({ entry }) => entry));
  page.show(() => {
    const { paint, model, values } = page;
    plain.hidden = paint.by !== "token";
    ramped.hidden = paint.by === "token";
    low.textContent = "0";
    high.textContent = paint.by === "entropy" ? paint.mostEntropy.toFixed(1) : paint.by === "agrees" ? model.last : "1";
    what.textContent = paint.by === "entropy" ? "nats" : paint.by === "agrees" ? "layer" : paint.by === "heat" ? `probability of ${values.token}` : "probability";
    for (const { kind, sample, entry } of patterns) {
      entry.hidden = kind === "unread" ? model.read.length === model.layers && model.patchesRead.length === model.patches : kind === "below" ? values.threshold === 0 : paint.by !== "heat";
      const drawn = sample.getContext("2d");
      drawn.fillStyle = "#333";
      drawn.fillRect(0, 0, 24, 16);
      drawn.fillStyle = paint.pattern(drawn, kind, "picture");
      drawn.fillRect(0, 0, 24, 16);
    }
  });
}
