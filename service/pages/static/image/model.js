// What the page knows of its image: where its patches lie, and what each row of the table reads at each layer.
// Rows are the patches, row-major, and behind them the tokens of the prompt and of the answer.

export class Model {
  // `about` is what /v1/images/{id} says, `lenses` the readings of each site by its name.
  constructor(about, lenses) {
    const { width, height, x, y } = about, [rows, columns] = about.grid;
    const hasPatches = "patch" in lenses;
    Object.assign(this, { about, lenses, width, height, x, y, rows, columns });
    this.patches = hasPatches ? rows * columns : 0;
    this.texts = ["prompt", "answer"].filter((site) => site in lenses).flatMap((site) =>
      about[site === "answer" ? "answer_tokens" : site].map((token, position, all) => ({
        site, position, token, name: site === "prompt" && position === all.length - 1 ? "last" : `${site} ${position}`,
      })),
    );
    this.count = this.patches + this.texts.length;
    const some = about.patches_read && new Set(about.patches_read); // of a run that reads some of each image's patches
    this.isThere = Array.from({ length: this.count }, (_, row) => row >= this.patches || !some || some.has(row));
    this.patchesRead = Array.from({ length: this.patches }, (_, patch) => patch).filter((patch) => this.isThere[patch]);
    const any = Object.values(lenses)[0];
    this.layers = any.layers;
    this.read = [...any.read].sort((a, b) => a - b); // ascending
    this.last = this.read.at(-1);
    this.wanted = new Map(); // of each lens the numbers of the tokens that were searched
    this.#agreements();
  }

  get k() {
    return Math.min(...Object.values(this.lenses).map((lens) => lens.k));
  }

  // Readings with more tokens take the place of those that were there.
  take(site, lens) {
    this.lenses[site] = lens;
  }

  // A row's lens and its position there.
  #place(row) {
    if (row < this.patches) return [this.lenses.patch, row];
    const { site, position } = this.texts[row - this.patches];
    return [this.lenses[site], position];
  }

  // Whether a row was read at a layer; without a row, whether the layer was read.
  isRead(layer, row = null) {
    return Object.values(this.lenses)[0].isRead.has(layer) && (row === null || this.isThere[row]);
  }

  token(layer, row, rank = 0) {
    const [lens, position] = this.#place(row);
    return rank < lens.k ? lens.at(layer, position, rank) : undefined;
  }

  probability(layer, row, rank = 0) {
    const [lens, position] = this.#place(row);
    return lens.probability(layer, position, rank);
  }

  entropy(layer, row) {
    const [lens, position] = this.#place(row);
    return lens.entropy(layer, position);
  }

  best(layer, row, count) {
    const found = [];
    for (let rank = 0; rank < count; rank++) {
      const token = this.token(layer, row, rank);
      if (token) found.push({ token, probability: this.probability(layer, row, rank) });
    }
    return found;
  }

  // The layer from which on a row decodes to what it decodes to at the last layer that was read.
  #agreements() {
    this.agrees = Int16Array.from({ length: this.count }, (_, row) => {
      const end = this.token(this.last, row)?.id;
      let from = this.last;
      for (let i = this.read.length - 1; i >= 0 && this.token(this.read[i], row)?.id === end; i--) from = this.read[i];
      return from;
    });
  }

  // --- tokens that are searched -------------------------------------------------------------------------------

  // The tokens of this image that a text means: an id, a piece as it is shown, or every token that begins a word and
  // has that text, case folded.
  named(text) {
    const word = text.trim(), found = new Map();
    if (!word) return [];
    const all = Object.values(this.lenses).flatMap((lens) => lens.tokens);
    const take = (holds) => { for (const token of all) if (holds(token)) found.set(token.id, token); };
    if (/^\d+$/.test(word)) take((token) => token.id === Number(word));
    if (!found.size && word.startsWith("▁")) take((token) => token.shown === word);
    if (!found.size) take((token) => token.shown.startsWith("▁") && folded(token.shown) === folded(word));
    if (!found.size) take((token) => folded(token.shown) === folded(word));
    return [...found.values()];
  }

  want(tokens) {
    const ids = new Set(tokens.map((token) => token.id));
    this.ids = ids;
    for (const lens of Object.values(this.lenses)) {
      const numbers = new Set();
      lens.tokens.forEach((token, number) => ids.has(token.id) && numbers.add(number));
      this.wanted.set(lens, numbers);
    }
  }

  // What the searched tokens have: rank (0 if none is stored), their stored probabilities' sum, and what those that are
  // not stored can have at most: they come behind the last stored one, and all others leave no more.
  found(layer, row, ids = null) {
    const [lens, position] = this.#place(row);
    let numbers = this.wanted.get(lens) ?? new Set();
    if (ids) {
      numbers = new Set();
      for (let rank = 0; rank < lens.k; rank++) {
        const number = lens.token[rank * lens.plane + layer * lens.positions + position];
        if (ids.has(lens.tokens[number]?.id)) numbers.add(number);
      }
    }
    const known = lens.of(numbers, layer, position);
    let stored = 0, count = 0;
    for (let rank = 0; rank < lens.k; rank++) {
      stored += lens.probability(layer, position, rank);
      count += numbers.has(lens.token[rank * lens.plane + layer * lens.positions + position]);
    }
    const unstored = (ids ?? this.ids).size - count;
    const most = Math.max(0, Math.min(unstored * lens.probability(layer, position, lens.k - 1), 1 - stored));
    return { ...known, most };
  }

  // The first layer at which a row decodes to what was searched; Infinity if it never does.
  first(row) {
    const [lens, position] = this.#place(row), numbers = this.wanted.get(lens) ?? new Set();
    return this.read.find((layer) => numbers.has(lens.token[layer * lens.positions + position])) ?? Infinity;
  }

  // --- patches on the picture ---------------------------------------------------------------------------------

  box(patch) {
    const row = Math.floor(patch / this.columns), column = patch % this.columns;
    return [this.x[column], this.y[row], this.x[column + 1], this.y[row + 1]];
  }

  // A patch that shows nothing of the picture, but what it was padded with.
  isPadding(patch) {
    const [x0, y0, x1, y1] = this.box(patch);
    return x1 <= x0 || y1 <= y0;
  }

  // The patch that shows a place of the picture; null if none does.
  at(x, y) {
    const column = between(this.x, x), row = between(this.y, y);
    return !this.patches || column === null || row === null ? null : row * this.columns + column;
  }

  // Where a row is, in words.
  name(row) {
    if (row >= this.patches) {
      const { name, token } = this.texts[row - this.patches];
      return `${name === "last" ? "last prompt token" : name.replace(" ", " token ")}: ${token.piece ?? token.id}`;
    }
    return `patch ${row}, row ${Math.floor(row / this.columns)}, column ${row % this.columns}`;
  }
}

export const folded = (text) => text.replaceAll("▁", " ").trim().toLowerCase();

// Which of the cells whose edges ascend has a value; null if none.
function between(edges, value) {
  let low = 0, high = edges.length - 1;
  if (!(edges[0] <= value && value < edges[high])) return null;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (edges[middle] <= value) low = middle;
    else high = middle;
  }
  return low;
}
