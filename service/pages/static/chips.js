// Tokens and figures as people see them.

import { page } from "./api.js";

// Hues that lie far enough apart to be told from each other, and marks for those that have the same one: of the hundred
// tokens that an image has most of, some five pairs have both in common.
const HUES = 24;
const MARKS = [..."●○◐◑◒◓◍◉■□◧◨◩◪▣▦▲△▼▽◭◮◆◇◈❖★☆✚✱✦✿⬟⬢▬▮◢◣◤◥"];

// Neighbouring ids are often of a kind: a hash spreads them.
function hashed(id) {
  let value = Math.imul(id ^ 0x9e3779b9, 0x85ebca6b);
  value = Math.imul(value ^ (value >>> 13), 0xc2b2ae35);
  return (value ^ (value >>> 16)) >>> 0;
}

export const hue = (id) => (hashed(id) % HUES) * (360 / HUES);
export const mark = (id) => MARKS[Math.floor(hashed(id) / HUES) % MARKS.length];

// What is shown of a token's text: its spaces in front are marked; what cannot be seen stands as its piece, and an id
// without either as its number.
export function shown({ id, piece, text }) {
  if (piece === null || piece === undefined) return String(id);
  if (!text || !text.trim() || /[\ufffd\p{C}]/u.test(text)) return piece;
  const spaces = text.length - text.trimStart().length;
  return "▁".repeat(spaces) + text.slice(spaces);
}

// An element for a token; a link to its page, unless `plain`: to that of a corpus, if not this one.
export function chip(token, { plain = false, of } = {}) {
  const where = plain ? null : page(`tokens/${token.id}`, of);
  const element = document.createElement(where ? "a" : "span");
  if (where) element.href = where;
  element.className = "chip";
  element.dataset.mark = mark(token.id);
  element.style.setProperty("--hue", hue(token.id));
  element.textContent = token.shown ?? shown(token);
  element.title = `${token.piece ?? "no piece"} (${token.id})`;
  return element;
}

export const figure = (p) => (p === null || Number.isNaN(p) ? "–" : p > 0 && p < 0.0005 ? p.toExponential(0) : p.toFixed(3));
export const counted = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

// Chips that the server wrote get their colour and mark here.
export function dress(part) {
  for (const element of part.querySelectorAll(".chip[data-token]")) {
    element.dataset.mark = mark(Number(element.dataset.token));
    element.style.setProperty("--hue", hue(Number(element.dataset.token)));
  }
}
