// Panels that fill the window: which one does stands in the address.

import { key } from "./keys.js";
import { choice } from "./state.js";

const panels = () => [...document.querySelectorAll(".panel[id]")];

// The field of a page's state.
export const whole = () => choice("", panels().map(({ id }) => id));

// Buttons with `data-whole` have their panel fill the window, and let go of it; Esc lets go, too.
export function fill(state) {
  const set = (id) => state.set({ whole: id }, { step: true });
  const show = () => {
    for (const panel of panels()) panel.classList.toggle("whole", panel.id === state.values.whole);
    for (const button of document.querySelectorAll("[data-whole]")) button.setAttribute("aria-pressed", button.dataset.whole === state.values.whole);
  };
  document.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-whole]");
    if (button) set(button.dataset.whole === state.values.whole ? "" : button.dataset.whole);
  });
  key(["Escape"], "Esc", "the panel fills the window no more", () => state.values.whole !== "" && set(""));
  state.on((values, before) => values.whole !== before.whole && show());
  show();
}
