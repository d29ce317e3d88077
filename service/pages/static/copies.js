// Buttons that copy the address of what is shown, its query, and the lines that ask the same in Python and a shell.

import { root, corpus } from "./api.js";

const forShell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const service = (of) => document.documentElement.dataset.cache ?? `${location.origin}${root}/${of}`; // a file says which cache it is of

export const pythonLine = (query, of = corpus) => `vlq.open(${JSON.stringify(service(of))}).query(${JSON.stringify(query)})`;
export const shellLine = (query, of = corpus) => `vlq ${forShell(query)} --cache ${forShell(service(of))}`;

// `query` gives the query that is shown, or "" if there is none, `of` the corpus that it is asked of; of what is shown by
// several, both give lists. `settle` brings the address up to date before.
export function copies(query, settle = () => {}, of = () => corpus) {
  const lines = (line) => () => {
    const corpora = [of()].flat();
    return [query()].flat().map((one, at) => line(one, corpora[at] ?? corpora[0])).join("\n");
  };
  const row = Object.assign(document.createElement("div"), { className: "copies" });
  const said = document.createElement("output");
  const ways = {
    ...(location.protocol !== "about:" && { "Copy link": () => { settle(); return location.href; } }), // a notebook's frame has none
    "Copy query": lines((one) => one),
    ...(service(corpus) && { "Copy Python": lines(pythonLine), "Copy CLI": lines(shellLine) }), // a file may be of no cache
  };
  for (const [name, textOf] of Object.entries(ways)) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    button.onclick = async () => {
      try {
        await navigator.clipboard.writeText(textOf());
        said.textContent = "Copied.";
      } catch {
        said.textContent = "The browser lets nothing be copied here.";
      }
      setTimeout(() => (said.textContent = ""), 2000);
    };
    row.append(button);
  }
  row.append(said);
  return row;
}
