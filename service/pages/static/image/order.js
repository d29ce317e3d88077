// In which order the patches' rows stand. The text's rows stay behind them.

const patchesOf = (model) => Array.from({ length: model.patches }, (_, patch) => patch);

// A chain that begins at patch 0: behind each stands, of those that are left, the patch that decodes to the same token
// at most layers; of several the one with the lowest number.
function similar(model) {
  const layers = model.read.length, count = model.patches, lens = model.lenses.patch;
  const read = new Uint32Array(count * layers);
  for (let i = 0; i < layers; i++) {
    for (let patch = 0; patch < count; patch++) read[patch * layers + i] = lens.token[model.read[i] * lens.positions + patch];
  }
  const left = patchesOf(model), chain = [left.shift()];
  while (left.length) {
    const from = chain.at(-1) * layers;
    let best = 0, most = -1;
    for (let i = 0; i < left.length; i++) {
      const to = left[i] * layers;
      let same = 0;
      for (let layer = 0; layer < layers; layer++) same += read[from + layer] === read[to + layer];
      if (same > most) [best, most] = [i, same];
    }
    chain.push(left.splice(best, 1)[0]);
  }
  return chain;
}

// By the first layer at which each decodes to what was searched; those that never do stand last.
function byFirst(model) {
  const first = patchesOf(model).map((patch) => model.first(patch));
  return patchesOf(model).sort((a, b) => (first[a] === first[b] ? a - b : first[a] - first[b]));
}

const ORDERS = { raster: patchesOf, similar, first: byFirst };
let kept = {};

// The rows in the order in which they are shown.
export function ordered(model, name) {
  const key = name === "first" ? `first ${[...model.ids].join()}` : name;
  if (kept.key !== key || kept.model !== model) {
    const patches = model.patches ? ORDERS[name](model) : [];
    kept = { key, model, rows: [...patches, ...model.texts.map((_, i) => model.patches + i)] };
  }
  return kept.rows;
}
