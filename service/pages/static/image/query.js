// Queries of what an image's page shows.

const LONGEST = 10_000; // characters that a query may have (query/parse.py)

// A text as the language writes it: as Python does.
export function quoted(text) {
  const mark = text.includes("'") && !text.includes('"') ? '"' : "'";
  const escaped = text.replaceAll("\\", "\\\\").replaceAll(mark, `\\${mark}`);
  return `${mark}${escaped.replace(/[\p{Cc}\u2028\u2029]/gu, (one) => `\\u${one.codePointAt(0).toString(16).padStart(4, "0")}`)}${mark}`;
}

const isThis = ({ number, name, repeated }) => (repeated ? `image_id == ${number}` : `image == ${quoted(name)}`);
const called = ({ number, name, repeated }) => (repeated ? String(number) : quoted(name));

// Where a token is read at some patches of the image: what was searched, or one token by its number. "" if that is longer
// than a query may be.
export function areaQuery({ word, ids }, patches, image) {
  const token = word && /^▁?\p{L}+$/u.test(word) ? quoted(word) : ids.length === 1 ? String(ids[0]) : `[${ids.join(", ")}]`;
  const query = `readings(${token}, patches=[${patches.join(", ")}]).where(${isThis(image)})`;
  return query.length > LONGEST ? "" : query;
}

// What the page shows: the image at its layer, and the pinned patches alone where there are any.
export function imageQuery(image, { layer, pins }, { rank, at }) {
  const parts = [called(image), `layers=${layer}`];
  if (pins.length === 1) parts.push(`patch=${pins[0]}`);
  if (rank > 1) parts.push(`rank=${rank}`);
  if (at !== "patch") parts.push(`at='${at}'`);
  if (pins.length > 1) parts.push(`patches=[${pins.join(", ")}]`);
  const query = `top(${parts.join(", ")})`;
  return query.length > LONGEST ? `top(${called(image)}, layers=${layer})` : query;
}
