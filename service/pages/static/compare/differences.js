// What two images have that differs, for pages that are files: the tables that a service makes (service/pages/compare.py),
// of the tokens that are in the files.

import { chip, counted } from "../chips.js";

const SHOWN = 24; // rows of a table, as a service's
const SAME = 1e-9; // differences that are closer are the same, and stand in the order of their patches

// How far apart the stored tokens of a patch are on both sides: half the sum of the differences of their probabilities.
function apart(lenses, layers, patch) {
  const shares = new Map();
  lenses.forEach((lens, side) => {
    for (let rank = 0; rank < lens.k; rank++) {
      const token = lens.at(layers[side], patch, rank);
      if (token) shares.set(token.id, (shares.get(token.id) ?? 0) + (side ? -1 : 1) * lens.probability(layers[side], patch, rank));
    }
  });
  let sum = 0;
  for (const share of shares.values()) sum += Math.abs(share);
  return sum / 2;
}

function patches([a, b], layers) {
  const [rows, columns] = a.image.grid, lenses = [a.lens, b.lens];
  if (String(a.image.grid) !== String(b.image.grid)) {
    const grids = [a, b].map(({ image }) => image.grid.join(" x ")).join(" and ");
    return { headline: `The grids differ (${grids}): patches are not held against each other.`, columns: [], rows: [], total: 0 };
  }
  const found = [];
  for (let patch = 0; patch < rows * columns; patch++) {
    const firsts = lenses.map((lens, side) => lens.at(layers[side], patch));
    if (firsts.every(Boolean)) found.push({ patch, firsts, change: apart(lenses, layers, patch) });
  }
  const differ = found.filter(({ firsts: [mine, its] }) => mine.id !== its.id).length;
  found.sort((one, other) => Math.round((other.change - one.change) / SAME) || one.patch - other.patch);
  return {
    headline: `${differ.toLocaleString("en")} of ${counted(found.length, "patch", "patches")} decode to different tokens`,
    columns: ["patch", "first", "probability", "second", "probability", "difference"],
    rows: found.slice(0, SHOWN).map(({ patch, firsts, change }) => [
      `${patch} (row ${Math.floor(patch / columns)}, column ${patch % columns})`,
      ...firsts.flatMap((token, side) => [chip(token), lenses[side].probability(layers[side], patch).toFixed(3)]),
      change.toFixed(3),
    ]),
    total: found.length,
  };
}

function tokens([a, b], layers) {
  const found = new Map();
  [a, b].forEach(({ lens }, side) => {
    for (let patch = 0; patch < lens.positions; patch++) {
      const token = lens.at(layers[side], patch);
      if (!token) continue;
      if (!found.has(token.id)) found.set(token.id, { token, counts: [0, 0] });
      found.get(token.id).counts[side] += 1;
    }
  });
  const sum = ({ counts }) => counts[0] + counts[1], change = ({ counts }) => counts[1] - counts[0];
  const ordered = [...found.values()].sort(
    (one, other) => Math.abs(change(other)) - Math.abs(change(one)) || sum(other) - sum(one) || one.token.id - other.token.id,
  );
  const both = ordered.filter(({ counts }) => counts[0] && counts[1]).length;
  return {
    headline: `${both.toLocaleString("en")} of ${counted(ordered.length, "token")} are decoded to on both sides`,
    columns: ["token", "patches of the first", "of the second", "difference"],
    rows: ordered.slice(0, SHOWN).map((one) => [chip(one.token), ...one.counts, `${change(one) > 0 ? "+" : ""}${change(one)}`]),
    total: ordered.length,
  };
}

function cell(row, tag, value) {
  const made = document.createElement(tag);
  made.append(value);
  row.append(made);
  return made;
}

function table(label, { columns, rows }) {
  const made = document.createElement("table"), head = made.createTHead().insertRow(), body = made.createTBody();
  columns.forEach((name, at) => Object.assign(cell(head, "th", name), { scope: "col", className: at ? "number" : "" }));
  for (const values of rows) {
    const row = body.insertRow();
    values.forEach((value, at) => Object.assign(cell(row, at ? "td" : "th", value), at ? { className: "number" } : { scope: "row" }));
  }
  const scroll = Object.assign(document.createElement("div"), { className: "scroll", tabIndex: 0 });
  scroll.setAttribute("role", "group");
  scroll.setAttribute("aria-label", label);
  scroll.append(made);
  return scroll;
}

const said = (className, text) => Object.assign(document.createElement("p"), { className, textContent: text });

// A panel's content, by its name: two sides with their images and readings, each at a layer.
export function differences(name, label, sides, layers) {
  const shown = { patches, tokens }[name](sides, layers), made = document.createDocumentFragment();
  made.append(said("headline", shown.headline));
  if (shown.rows.length) made.append(table(label, shown));
  if (shown.total > shown.rows.length) made.append(said("faint", `${shown.rows.length} of ${shown.total.toLocaleString("en")} rows.`));
  if (name === "patches") made.append(said("faint", `By the ${sides[0].lens.k} best tokens of each patch, which are in these files.`));
  sides.forEach(({ number }, side) => {
    const query = `top(${number}, layers=${layers[side]})`;
    const asked = Object.assign(document.createElement("details"), { className: "asked" });
    asked.dataset.query = query;
    cell(cell(asked, "summary", ""), "code", query);
    made.append(asked);
  });
  return made;
}
