// What every page has: the keys' help.

import { keys } from "./keys.js";

const help = document.getElementById("help");

function show() {
  const dialog = document.createElement("dialog");
  dialog.setAttribute("aria-label", "Keys");
  const title = Object.assign(document.createElement("h2"), { textContent: "Keys" });
  const table = document.createElement("table");
  for (const [key, meaning] of keys()) {
    const row = table.insertRow();
    row.append(Object.assign(document.createElement("th"), { scope: "row", textContent: key }));
    row.insertCell().textContent = meaning;
  }
  const close = Object.assign(document.createElement("button"), { type: "button", textContent: "Close" });
  close.onclick = () => dialog.close();
  dialog.onclose = () => { dialog.remove(); help?.focus(); };
  dialog.append(title, table, close);
  document.body.append(dialog);
  dialog.showModal();
}

help?.addEventListener("click", show);
document.addEventListener("keydown", (event) => {
  if (event.key === "?" && !event.target.closest("input, textarea, select, dialog")) {
    event.preventDefault();
    show();
  }
});
