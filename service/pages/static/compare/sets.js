// Two sets of images: each is what a query finds.

import { post } from "../api.js";
import { Panels, bind } from "../panels.js";

// `form` has the queries; what is asked stands in the state.
export function sets(state, form) {
  const places = document.getElementById("set-panels"), mistake = document.getElementById("mistake");
  // Panels go by what was found to be right: a mistake is told once, and nothing is asked with it.
  const checked = {
    values: { a: "", b: "", at: "" },
    tell: () => {},
    on(listener) { this.tell = listener; },
    parameters() { return state.parameters(this.values); },
  };
  let panels = null, asking = 0;

  async function ask() {
    const { a, b, at } = state.values, mine = ++asking;
    for (const name of ["a", "b"]) if (document.activeElement !== form.elements[name]) form.elements[name].value = state.values[name];
    let wrong = "";
    if (a && b) {
      try {
        for (const query of [a, b]) {
          if (query === checked.values.a || query === checked.values.b) continue;
          const { columns } = await post("check", { query });
          if (!columns.includes("image_id")) throw new Error(`${query} has no rows by image: a set is what images(...) or first_layer(...) find.`);
        }
      } catch (error) {
        wrong = [error.message, error.hint].filter(Boolean).join(" ");
      }
    }
    if (mine !== asking) return;
    mistake.textContent = wrong;
    mistake.hidden = !wrong;
    places.hidden = !a || !b || wrong !== "";
    if (places.hidden) return;
    const before = checked.values;
    checked.values = { a, b, at };
    panels ??= new Panels(checked, places);
    checked.tell(checked.values, before);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    state.set({ a: form.elements.a.value.trim(), b: form.elements.b.value.trim() }, { step: true });
  });
  bind(state, form, { names: ["at"] }); // the texts are taken when they are sent, not while they are typed
  state.on((values, before) => { if (["a", "b", "at"].some((name) => values[name] !== before[name])) ask(); });
  ask();
}
