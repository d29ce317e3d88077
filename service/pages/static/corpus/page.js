// The corpus' page: what is asked stands in the address, and its answer is the server's.

import { corpus, getText, isFile, post, latest } from "../api.js";
import { copies } from "../copies.js";
import { dress } from "../chips.js";
import { key } from "../keys.js";
import { State, text, choice, numbers, flag } from "../state.js";
import { ask as asked, edit, show, tell, underline } from "./editor.js";
import { sets } from "./sets.js";
import { trouble } from "../trouble.js";
import { fill, whole } from "../whole.js";

const state = new State({
  q: text(isFile ? document.getElementById("query").defaultValue : ""), // a file has an answer of its own
  view: choice("table", ["table", "images", "chart"]),
  cursor: text(),
  facets: flag(true),
  plan: flag(),
  chosen: numbers(),
  set: text(),
  whole: whole(),
});
fill(state);
const answer = document.getElementById("answer");
const aside = document.getElementById("facets");
const below = document.querySelector(".below");
const box = document.getElementById("query");

// --- parts of the page that the server writes --------------------------------------------------------------------

const part = (name, values, signal) => getText(`/${corpus}/${name}?${new URLSearchParams(values)}`, signal);
const answers = latest((values, signal) => part("answer", values, signal), 0);
const bars = latest((values, signal) => part("facets", values, signal), 0);

// What the server has written takes the place of what was there; the focus stays on what has the same id.
function put(where, written) {
  const had = where.contains(document.activeElement) ? document.activeElement.id : "";
  const made = document.createElement("template");
  made.innerHTML = written;
  where.replaceChildren(made.content);
  where.removeAttribute("aria-busy");
  if (had) (document.getElementById(had) ?? answer.querySelector(".headline, .mistake"))?.focus?.();
  if (where === answer) furnish();
}

// Where it cannot be had, that is said in its place: what was there answers something else.
async function load(where, ask, values) {
  where.setAttribute("aria-busy", "true");
  try {
    put(where, await ask(values));
  } catch (error) {
    where.replaceChildren(trouble(error, () => load(where, ask, values)));
    where.removeAttribute("aria-busy");
  }
}

function loadFacets() {
  const { q, view, facets } = state.values;
  below.classList.toggle("alone", !facets);
  if (!facets || isFile) return; // those of a file are there
  if (q) load(aside, bars, { q, view });
  else aside.replaceChildren();
}

function loadAnswer() {
  const { q, view, cursor } = state.values;
  load(answer, answers, { q, view, cursor });
}

// --- what a script adds to an answer -----------------------------------------------------------------------------

const hold = sets(state, (query) => go({ q: query }), tell);

function gone(image) {
  image.closest(".frame").classList.add("gone");
}

async function undrawn(image) {
  const told = await fetch(image.src).then((response) => response.json()).catch(() => ({ message: "The service draws nothing." }));
  const said = Object.assign(document.createElement("p"), { className: "empty", textContent: [told.message, told.hint].filter(Boolean).join(" ") });
  image.closest("figure").replaceWith(said);
}

function broken(image, act) {
  if (image.complete && image.naturalWidth === 0 && image.loading !== "lazy") act(image);
  else image.addEventListener("error", () => act(image));
}

function furnish() {
  dress(answer);
  hold.mark(answer);
  for (const image of answer.querySelectorAll(".frame img")) {
    image.addEventListener("error", () => gone(image));
    if (image.complete && image.naturalWidth === 0 && (image.currentSrc || isFile)) gone(image);
  }
  for (const image of answer.querySelectorAll("img.chart")) broken(image, undrawn);
  const wrong = answer.querySelector(".wrong[data-span]");
  if (wrong && box.value === state.values.q) underline(wrong.dataset.span.split(",").map(Number));
  const bar = answer.querySelector(".bar");
  if (bar) bar.after(tools());
}

function button(name, pressed, act = null) {
  const made = Object.assign(document.createElement("button"), { type: "button", textContent: name, onclick: act, id: `tool-${name.toLowerCase()}` });
  made.setAttribute("aria-pressed", pressed);
  return made;
}

function tools() {
  const row = Object.assign(document.createElement("div"), { className: "tools" });
  const filling = button("Fill the window", state.values.whole === "answer");
  Object.assign(filling, { id: "tool-whole" }).dataset.whole = "answer";
  row.append(
    button("Facets", state.values.facets, () => state.set({ facets: !state.values.facets })),
    button("Plan", state.values.plan, () => state.set({ plan: !state.values.plan })),
    filling,
    copies(() => state.values.q, () => state.settle()),
  );
  row.append(Object.assign(document.createElement("div"), { id: "plan" }));
  if (state.values.plan) explain(row.lastChild);
  return row;
}

async function explain(where) {
  const shown = Object.assign(document.createElement("pre"), { textContent: "…", tabIndex: 0 });
  where.replaceChildren(shown);
  try {
    shown.textContent = (await post("explain", { query: state.values.q })).text;
  } catch (error) {
    shown.textContent = error.message;
  }
}

// --- the state ---------------------------------------------------------------------------------------------------

// Ask something else; what is chosen stays.
function go(changes) {
  state.set({ cursor: "", ...changes }, { step: true });
}

state.on((now, before) => {
  const changed = (name) => String(now[name]) !== String(before[name]);
  if (changed("q") || changed("view") || changed("cursor")) {
    if (changed("q")) show(now.q);
    loadAnswer();
  }
  if (changed("q") || changed("facets") || changed("view")) loadFacets();
  if (changed("facets")) document.getElementById("tool-facets")?.setAttribute("aria-pressed", now.facets);
  if (changed("plan")) {
    document.getElementById("tool-plan")?.setAttribute("aria-pressed", now.plan);
    const where = document.getElementById("plan");
    if (where) now.plan ? explain(where) : where.replaceChildren();
  }
  if (changed("chosen") || changed("set")) {
    hold.draw();
    hold.mark(answer);
  }
});

function ask(query) {
  asked(query);
  if (query === state.values.q && !state.values.cursor) {
    show(query);
    loadAnswer();
  } else go({ q: query });
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='?']");
  if (!link || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  const given = new URLSearchParams(link.getAttribute("href").slice(1));
  if (given.has("chosen")) return; // a set's link is of a whole state
  event.preventDefault();
  go({ q: given.get("q") ?? "", view: given.get("view") ?? (link.closest(".examples") ? state.values.view : "table"), cursor: given.get("cursor") ?? "" });
  link.closest("details")?.removeAttribute("open");
});
document.getElementById("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask(box.value);
});
answer.addEventListener("change", hold.ticked);

if (!isFile) {
  key(["/"], "/", "the query", () => box.focus());
  key([], "Enter, Ctrl+Enter", "in the query: run it", () => false);
  key([], "Shift+Enter", "in the query: a new line", () => false);
  key([], "↓ ↑, Enter or Tab", "in the query: choose a completion, and take it", () => false);
  edit(ask);
} else underline(null);

document.documentElement.classList.add("scripted");
furnish();
if (isFile && state.address() !== state.address({ q: box.defaultValue, view: "table", cursor: "" })) {
  show(state.values.q); // the file was written with another answer
  loadAnswer();
}
if (state.values.q && !aside.querySelector(".facet")) loadFacets();
