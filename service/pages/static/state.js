// A page's whole state is in its address: whoever has the address sees the same. Each field says how it is written
// there; a field that has its usual value is left out.

import { isFile } from "./api.js"; // a page of a file can change only what is behind the #

const isFramed = location.protocol === "about:"; // one in a notebook has no address, and its history is the notebook's

export const text = (usual = "") => ({ usual, read: (value) => value, write: (value) => value });
export const number = (usual, least = -Infinity, most = Infinity) => ({
  usual,
  read: (value) => {
    const found = Number(value);
    return value.trim() !== "" && Number.isFinite(found) ? Math.min(most, Math.max(least, found)) : usual;
  },
  write: String,
});
export const choice = (usual, options) => ({ usual, read: (value) => (options.includes(value) ? value : usual), write: String });
export const flag = (usual = false) => ({ usual, read: (value) => value === "1", write: (value) => (value ? "1" : "0") });
export const numbers = (usual = []) => ({
  usual,
  read: (value) => [...new Set(value.split(",").filter((part) => /^\d+$/.test(part)).map(Number))],
  write: (values) => values.join(","),
});

export class State {
  #fields;
  #listeners = [];
  #timer = 0;

  constructor(fields) {
    this.#fields = fields;
    this.values = this.#read();
    addEventListener(isFile ? "hashchange" : "popstate", () => {
      const before = this.values;
      this.values = this.#read();
      this.#tell(before);
    });
  }

  #read() {
    const given = new URLSearchParams(isFile ? location.hash.slice(1) : location.search);
    return Object.fromEntries(
      Object.entries(this.#fields).map(([name, field]) => [name, given.has(name) ? field.read(given.get(name)) : field.usual]),
    );
  }

  // Some values as an address has them; what is not given is as it is now.
  parameters(changes = {}) {
    const values = { ...this.values, ...changes }, parts = new URLSearchParams();
    for (const [name, field] of Object.entries(this.#fields)) {
      const written = field.write(values[name]);
      if (written !== field.write(field.usual)) parts.set(name, written);
    }
    return parts;
  }

  // The address of some values.
  address(changes = {}) {
    const written = this.parameters(changes).toString();
    return isFile ? location.pathname + (written && `#${written}`) : location.pathname + (written && `?${written}`);
  }

  // `step` makes an entry of the history that Back returns from; else the address changes in place, soon.
  set(changes, { step = false } = {}) {
    const before = this.values;
    if (step && this.#timer) this.settle(); // Back leads to what was shown last
    this.values = { ...before, ...changes };
    clearTimeout(this.#timer);
    if (step && !isFramed) history.pushState(null, "", this.address());
    else this.#timer = setTimeout(() => this.settle(), 120); // browsers bear a hundred changes in half a minute
    this.#tell(before);
  }

  // Have the address say what is the case now.
  settle() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    if (!isFramed) history.replaceState(null, "", this.address());
  }

  // `listener` gets the values and what they were before.
  on(listener) {
    this.#listeners.push(listener);
  }

  #tell(before) {
    for (const listener of this.#listeners) listener(this.values, before);
  }
}
