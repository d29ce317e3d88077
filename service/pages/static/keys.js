// The keys of a page: each is registered with what it does, so that `?` lists what there is.

const registered = [];

export const keys = () => [...registered.map(({ shown, meaning }) => [shown, meaning]), ["?", "these keys"]];

const isTyping = (target) => target.closest("input:not([type=range], [type=checkbox], [type=radio], [type=button]), textarea, select, [contenteditable]");

// With Ctrl, Alt or Cmd a key is another one, the browser's; but many keyboards have brackets and braces on AltGr, which
// some systems tell as Ctrl and Alt, or on Option, which is Alt.
const isOther = ({ key, ctrlKey, altKey, metaKey }) => metaKey || (/^[[\]{}]$/.test(key) ? ctrlKey && !altKey : ctrlKey || altKey);

// `names` are KeyboardEvent.key values; `action` gets the event. A key that moves something inside of `within` alone
// is left alone elsewhere.
export function key(names, shown, meaning, action, within = null) {
  registered.push({ shown, meaning });
  document.addEventListener("keydown", (event) => {
    if (isOther(event) || event.defaultPrevented) return;
    if (!names.includes(event.key) || document.querySelector("dialog[open]")) return;
    if (within ? !within.contains(event.target) : isTyping(event.target)) return;
    if (action(event) !== false) event.preventDefault();
  });
}
