// Two sets of images: each is what a query finds.

import { post } from "../api.js";
import { Panels, bind } from "../panels.js";
import { changed, kept, query } from "../sets.js";

const SETS = ["a", "b"];

// `form` has the queries; what is asked stands in the state.
export function sets(state, form) {
  const places = document.getElementById("set-panels"), mistake = document.getElementById("mistake");
  // Panels go by what was found to be right: a mistake is told once, and nothing is asked with it.
  const checked = {
    values: { a: "", b: "", at: "", a_name: "", b_name: "" },
    tell: () => {},
    on(listener) { this.tell = listener; },
    parameters() { return state.parameters(this.values); },
  };
  let panels = null, asking = 0;

  async function ask() {
    const { a, b, at, a_name, b_name } = state.values, mine = ++asking;
    for (const name of SETS) if (document.activeElement !== form.elements[name]) form.elements[name].value = state.values[name];
    let wrong = "";
    if (a && b) {
      try {
        for (const asked of [a, b]) {
          if (asked === checked.values.a || asked === checked.values.b) continue;
          const { columns } = await post("check", { query: asked });
          if (!columns.includes("image_id")) throw new Error(`${asked} has no rows by image: a set is what images(...) or first_layer(...) find.`);
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
    checked.values = { a, b, at, a_name, b_name };
    panels ??= new Panels(checked, places);
    checked.tell(checked.values, before);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const changes = {};
    for (const name of SETS) {
      const typed = form.elements[name].value.trim();
      if (typed !== state.values[name]) Object.assign(changes, { [name]: typed, [`${name}_name`]: "" });
    }
    state.set(changes, { step: true });
  });

  // What is kept can be taken by its name, which goes along in the address beside the query.
  function offer() {
    const sets = kept();
    for (const name of SETS) {
      const choice = form.elements[`${name}_name`], now = state.values[`${name}_name`];
      const names = [...new Set([...sets.map((one) => one.name), ...(now ? [now] : [])])];
      choice.replaceChildren(new Option("a kept set", ""), ...names.map((one) => new Option(one, one)));
      choice.value = now;
      choice.hidden = !names.length;
    }
  }
  for (const name of SETS) {
    form.elements[`${name}_name`].addEventListener("change", ({ target }) => {
      const set = kept().find((one) => one.name === target.value);
      if (set) state.set({ [name]: query(set.images), [`${name}_name`]: set.name }, { step: true });
      else if (!target.value) state.set({ [`${name}_name`]: "" }, { step: true });
    });
  }
  changed(offer);
  bind(state, form, { names: ["at"] }); // the texts are taken when they are sent, not while they are typed
  state.on((values, before) => { if (Object.keys(checked.values).some((name) => values[name] !== before[name])) { offer(); ask(); } });
  offer();
  ask();
}
