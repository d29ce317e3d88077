// A token's page: its controls, the histogram that filters the examples, and keys that lead to other tokens.

import { isFile } from "../api.js";
import { copies } from "../copies.js";
import { key } from "../keys.js";
import { Panels, bind } from "../panels.js";
import { State, choice, number, text } from "../state.js";
import { fill, whole } from "../whole.js";

const BINS = 20, BIN = 1 / BINS;

const state = new State({
  rank: number(1, 1),
  layer: text(""),
  low: number(0, 0, 1),
  high: number(1, 0, 1),
  show: choice("bands", ["bands", "random", "top"]),
  seed: number(0, 0),
  whole: whole(),
});
fill(state);
const form = document.getElementById("controls");
const base = document.querySelector(".panels");
const id = base.dataset.base.split("/").pop();

const panels = new Panels(state, base);
bind(state, form, { panels });

const query = () => {
  const { rank, layer, low } = state.values;
  const parts = [id, rank > 1 && `rank=${rank}`, layer !== "" && `layers=${layer}`, low > 0 && `min_prob=${low}`];
  return `readings(${parts.filter(Boolean).join(", ")})`;
};
document.getElementById("copies").append(copies(query, () => state.settle()));

const again = document.getElementById("again"), wholeBand = document.getElementById("whole-band");
again.hidden = isFile;
again.onclick = () => {
  const { show, seed } = state.values;
  state.set({ seed: seed + 1, show: show === "top" ? "random" : show }, { step: true });
};
wholeBand.onclick = () => state.set({ low: 0, high: 1 }, { step: true });

// --- the histogram: a click chooses a bar, dragging several ------------------------------------------------------

const rounded = (value) => Math.round(value * BINS) / BINS;

// Files have examples of some bands alone: those that can be selected.
const band = form.elements.band;
const bands = [...(band?.options ?? [])].map((option) => option.value);
const within = (low, high) => bands.find((one) => one !== "0,1" && Number(one.split(",")[0]) <= low && high <= Number(one.split(",")[1])) ?? "0,1";
const choose = (written) => {
  const [low, high] = written.split(",").map(Number);
  state.set({ low, high }, { step: true });
};
function showBand() {
  band.value = `${state.values.low},${state.values.high}`;
  for (const option of band.options) {
    const [low, high] = option.value.split(",").map(Number);
    option.disabled = option.value !== band.value && !panels.offers({ low, high });
  }
}
if (band) {
  band.addEventListener("change", () => choose(band.value));
  state.on(showBand);
  showBand();
}

function mark(panel) {
  const { low, high } = state.values, isAll = low === 0 && high === 1;
  wholeBand.hidden = isAll;
  for (const bar of panel.querySelectorAll("[data-bar]")) {
    const start = Number(bar.dataset.bar) * BIN;
    bar.classList.toggle("outside", !isAll && (start + BIN <= low + 1e-9 || start >= high - 1e-9));
  }
}

const histogram = document.getElementById("probabilities");
state.on(() => mark(histogram));
mark(histogram);

let from = null, to = null;
const bin = (event) => event.target.closest?.("[data-bar]")?.dataset.bar;

histogram.addEventListener("pointerdown", (event) => {
  if (bin(event) === undefined || event.button) return;
  event.target.releasePointerCapture?.(event.pointerId); // a finger's events would all be of the bar where it began
  from = to = Number(bin(event));
  event.preventDefault();
});
histogram.addEventListener("pointermove", (event) => {
  if (from === null || bin(event) === undefined || Number(bin(event)) === to) return;
  to = Number(bin(event));
  for (const bar of histogram.querySelectorAll("[data-bar]")) {
    const at = Number(bar.dataset.bar);
    bar.classList.toggle("outside", at < Math.min(from, to) || at > Math.max(from, to));
  }
});
addEventListener("pointerup", () => {
  if (from === null) return;
  const low = rounded(Math.min(from, to) * BIN), high = rounded((Math.max(from, to) + 1) * BIN);
  from = to = null;
  if (band) {
    const written = within(low, high), isShown = written === band.value;
    mark(histogram);
    if (panels.offers({ low: Number(written.split(",")[0]), high: Number(written.split(",")[1]) })) choose(isShown ? "0,1" : written);
    return;
  }
  const isSame = low === state.values.low && high === state.values.high;
  state.set(isSame ? { low: 0, high: 1 } : { low, high }, { step: true });
});
addEventListener("pointercancel", () => { from = to = null; mark(histogram); });

// --- bars by layer choose the layer ------------------------------------------------------------------------------

const layers = document.getElementById("layers");

function markLayer() {
  for (const bar of layers.querySelectorAll("[data-bar]")) bar.classList.toggle("chosen", bar.dataset.mark === state.values.layer);
}
layers.addEventListener("click", (event) => {
  const bar = event.target.closest("[data-bar]");
  if (!bar) return;
  const options = [...form.elements.layer.options].map((option) => option.value);
  if (options.includes(bar.dataset.mark) && panels.offers({ layer: bar.dataset.mark })) {
    state.set({ layer: state.values.layer === bar.dataset.mark ? "" : bar.dataset.mark }, { step: true });
  }
});
state.on(markLayer);
panels.on((panel) => {
  if (panel === histogram) mark(panel);
  if (panel === layers) markLayer();
});

// --- keys --------------------------------------------------------------------------------------------------------

const follow = (name) => () => {
  const link = document.getElementById(name);
  if (link) location.href = link.href;
  return link !== null;
};
key(["p"], "p", "the token that is read in the next more images", follow("more"));
key(["n"], "n", "the token that is read in the next fewer images", follow("less"));
key(["r"], "r", "a random token", follow("random"));
key(["o"], "o", "other examples", () => again.click());
