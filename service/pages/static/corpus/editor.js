// The box in which a query is typed: completion, a mistake underlined where it is, and how much would be found.

import Combobox from "../vendor/combobox-nav.js";
import { post, latest } from "../api.js";
import { counted } from "../chips.js";

const box = document.getElementById("query");
const mirror = document.getElementById("mirror");
const list = document.getElementById("ways");
const said = document.getElementById("said");

// The service counts characters as Python does, a browser as UTF-16 does.
const place = (text, characters) => Array.from(text).slice(0, characters).join("").length;

// The text behind the box, underlined from the one place to the other. Its end is a line's: a last line that is empty is one.
export function underline(span) {
  const text = box.value;
  if (!span) {
    mirror.replaceChildren(text, "\n");
    return;
  }
  const [start, end] = span.map((at) => place(text, at));
  const mark = document.createElement("mark");
  // Something is to be seen even where what is wrong is that nothing is there.
  mark.textContent = text.slice(start, Math.max(end, start + 1)) || " ";
  mirror.replaceChildren(text.slice(0, start), mark, text.slice(Math.max(end, start + 1)), "\n");
}

function say(text, isMistake = false) {
  said.replaceChildren(text ? Object.assign(document.createElement("span"), { textContent: text }) : "");
  said.classList.toggle("mistake", isMistake);
  box.setAttribute("aria-invalid", isMistake);
}

export function tell(error) {
  say([error.message, error.hint].filter(Boolean).join("\n"), true);
  underline(error.span);
}

// --- while it is typed ---------------------------------------------------------------------------------------

const check = latest((query, typing, signal) => post("check", { query, typing }, signal), 250);
const count = latest((query, signal) => post("query", { query, limit: 0 }, signal), 150);

// While it is typed at its end the language says what is no mistake yet; that waits until it is asked or left.
const isTyped = () => document.activeElement === box && box.selectionStart === box.value.length && box.value !== asked;
let asked = null, waiting = null;

async function look() {
  underline(null);
  waiting = null;
  const query = box.value;
  if (!query.trim()) {
    say("");
    return;
  }
  try {
    await check(query, isTyped());
    const { total, headline } = await count(query);
    if (box.value === query) say(`${counted(total, "row")}: ${headline}`);
  } catch (error) {
    if (box.value !== query) return;
    if (error.kind === "unfinished" && isTyped()) {
      waiting = error;
      say("Unfinished");
    } else tell(error);
  }
}

function left() {
  if (!waiting || isTyped()) return;
  tell(waiting);
  waiting = null;
}

// A query is asked as it stands: all of its mistakes are some now.
export function ask(query) {
  asked = query;
  left();
}

// --- completion ----------------------------------------------------------------------------------------------

const ways = latest((text, signal) => post("complete", { text }, signal), 100);
let combobox = null, begun = "";

function close() {
  combobox?.destroy();
  combobox = null;
  list.hidden = true;
}

async function complete() {
  begun = box.value.slice(0, box.selectionStart);
  const asked = begun;
  // Behind a word's end or a space nothing is begun.
  if (!/[\w'"▁.(\[,=]$/.test(asked)) {
    close();
    return;
  }
  let found;
  try {
    found = (await ways(asked)).candidates;
  } catch {
    close();
    return;
  }
  if (asked !== box.value.slice(0, box.selectionStart) || document.activeElement !== box) return;
  close();
  if (!found.length) return;
  const from = asked.search(/["']?[\p{L}\p{N}_▁]*$/u);
  list.replaceChildren(
    ...found.map(({ text, help }, i) => {
      const option = Object.assign(document.createElement("li"), { id: `way-${i}` });
      option.setAttribute("role", "option");
      option.dataset.text = text;
      option.append(
        Object.assign(document.createElement("code"), { textContent: text.slice(from) }),
        Object.assign(document.createElement("small"), { textContent: help, title: help }),
      );
      return option;
    }),
  );
  list.hidden = false;
  list.scrollTop = 0;
  combobox = new Combobox(box, list);
  combobox.start();
}

list.addEventListener("combobox-commit", (event) => {
  const { text } = event.target.dataset;
  const behind = box.value.slice(begun.length);
  close();
  box.focus();
  // What was typed behind the begun word stays; a quote or parenthesis that is there already is not doubled.
  const doubled = behind && text.endsWith(behind[0]) && /['")\]]/.test(behind[0]) ? 1 : 0;
  box.value = text + behind.slice(doubled);
  box.setSelectionRange(text.length, text.length);
  changed();
});
list.addEventListener("mousedown", (event) => event.preventDefault()); // the box keeps the focus

function changed() {
  asked = null;
  look();
  complete();
}

// `run` gets the query when Enter is pressed.
export function edit(run) {
  box.addEventListener("input", changed);
  box.addEventListener("blur", () => {
    close();
    left();
  });
  document.addEventListener("selectionchange", left);
  // Before the list's own keys: Enter takes what is chosen there, and else asks.
  box.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    if (event.key === "Escape" && !list.hidden) {
      event.preventDefault();
      close();
    }
    if (event.key !== "Enter" || event.shiftKey) return;
    if (!event.ctrlKey && !event.metaKey && list.querySelector('[aria-selected="true"]')) return;
    event.preventDefault();
    close();
    run(box.value);
  });
  underline(null);
}

export function show(query) {
  if (box.value !== query) box.value = query;
  close();
  say("");
  underline(null);
}
