// Patches that are kept in sight: the colours that they have, and how sets of them are written in an address.

export const PIN_COLOURS = ["#ffb000", "#56b4e9", "#ff8fb1", "#3ddc97", "#f0e442", "#c9a6ff", "#ff7a45", "#7fe5e5"]; // black is read on each

// All patches of the rectangle between two of them.
export function rectangle(a, b, columns) {
  const [top, bottom] = [a, b].map((patch) => Math.floor(patch / columns)).sort((x, y) => x - y);
  const [left, right] = [a, b].map((patch) => patch % columns).sort((x, y) => x - y);
  const found = [];
  for (let row = top; row <= bottom; row++) for (let column = left; column <= right; column++) found.push(row * columns + column);
  return found;
}

// Ascending numbers as "3-8,20": what a long list of neighbours comes to.
export function spans(numbers) {
  const found = [];
  for (const number of numbers) {
    if (found.length && found.at(-1)[1] === number - 1) found.at(-1)[1] = number;
    else found.push([number, number]);
  }
  return found.map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`)).join(",");
}

export function unspanned(text, most) {
  const found = new Set();
  for (const part of text.split(",")) {
    const match = /^(\d+)(?:-(\d+))?$/.exec(part);
    if (match) for (let n = Number(match[1]); n <= Math.min(most, Number(match[2] ?? match[1])); n++) found.add(n);
  }
  return [...found].filter((n) => n <= most).sort((a, b) => a - b);
}
