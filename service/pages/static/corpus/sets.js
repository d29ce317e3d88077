// Images that are chosen, and the sets of them that are kept.

import { html, render, nothing } from "../vendor/lit-html.js";
import { corpus, isFile, page, post } from "../api.js";
import { counted } from "../chips.js";
import { changed, keep, kept, query } from "../sets.js";

const bar = document.getElementById("selection");
const shelf = document.getElementById("sets");

// `state` has `chosen` and `set`; `run` asks a query, `tell` says what went wrong.
export function sets(state, run, tell) {
  const choose = (images) => state.set({ chosen: images });

  function save(event) {
    event.preventDefault();
    const name = event.target.elements.name.value.trim();
    if (!name) return;
    const others = kept().filter((one) => one.name !== name);
    if (!keep([...others, { name, images: state.values.chosen }])) tell({ message: "This browser keeps nothing here.", hint: "Copy the set's link instead." });
    state.set({ set: name });
    draw();
  }

  async function restrict(images) {
    try {
      run((await post("narrow", { query: state.values.q || "images()", images })).query);
    } catch (error) {
      tell(error);
    }
  }

  function forget(name) {
    keep(kept().filter((one) => one.name !== name));
    draw();
  }

  function draw() {
    const { chosen, set } = state.values;
    render(
      chosen.length === 0
        ? nothing
        : html`<span>${counted(chosen.length, "image")} selected</span>
            ${chosen.length > 1 ? html`<a class="button" href=${page(`compare?images=${chosen.slice(0, 2).join(",")}`) ?? nothing}>${chosen.length > 2 ? "Compare the first two" : "Compare"}</a>` : nothing}
            ${isFile ? nothing : html`<button type="button" @click=${() => restrict(chosen)}>Ask these alone</button>
            <form @submit=${save}><label>Name <input name="name" type="text" size="12" maxlength="80" autocomplete="off" .value=${set} /></label>
              <button type="submit">Save set</button></form>`}
            <button type="button" @click=${() => choose([])}>Clear</button>`,
      bar,
    );
    const all = isFile ? [] : kept();
    render(
      all.length === 0
        ? nothing
        : html`<span class="faint">Sets:</span> ${all.map(
              ({ name, images }) => html`<span class="set"><button type="button" title="Ask these images alone" @click=${() => restrict(images)}>${name} (${images.length})</button>
                <a href="?${new URLSearchParams({ q: query(images), chosen: images.join(","), set: name })}" data-whole-state aria-label="Link to ${name}" title="A link to this set">↗</a>
                <button type="button" aria-label="Forget ${name}" title="Forget this set" @click=${() => forget(name)}>×</button></span>`,
            )}`,
      shelf,
    );
  }

  // The checkboxes of a part of the page that was just written.
  function mark(part) {
    const chosen = new Set(state.values.chosen), boxes = [...part.querySelectorAll('.pick input:not(.all)')];
    for (const box of boxes) {
      box.checked = chosen.has(Number(box.value));
      box.disabled = page(`images/${box.value}`) === null; // a file's, of an image that is not beside it
      box.closest("tr, .card").classList.toggle("picked", box.checked);
    }
    const all = part.querySelector(".pick input.all");
    if (all) {
      const checked = boxes.filter((box) => box.checked).length;
      all.checked = checked > 0 && checked === boxes.length;
      all.indeterminate = checked > 0 && checked < boxes.length;
    }
  }

  function ticked(event) {
    const box = event.target.closest(".pick input");
    if (!box) return;
    const boxes = box.classList.contains("all") ? [...event.currentTarget.querySelectorAll(".pick input:not(.all)")] : [box];
    const chosen = new Set(state.values.chosen);
    for (const one of boxes.filter(({ disabled }) => !disabled)) box.checked ? chosen.add(Number(one.value)) : chosen.delete(Number(one.value));
    choose([...chosen]);
  }

  changed(draw);
  draw();
  return { draw, mark, ticked };
}
