// What a patch reads, beside it: the best tokens of one layer. Made once, and filled anew: pointing must cost little.

import { figure, hue, mark } from "../chips.js";

const SHOWN = 5, WIDTH = 288, GAP = 8; // pixels; the width is the style sheet's

export class Tip {
  constructor(page) {
    this.page = page;
    this.element = Object.assign(document.createElement("div"), { className: "tip", hidden: true, id: "tip" });
    this.element.setAttribute("role", "tooltip");
    this.title = Object.assign(document.createElement("div"), { className: "title" });
    this.lines = Array.from({ length: Math.min(SHOWN, page.k) }, () => {
      const line = document.createElement("div"), chip = document.createElement("span"), value = document.createElement("b");
      line.className = "line";
      chip.className = "chip";
      line.append(chip, value);
      return { line, chip, value };
    });
    this.foot = Object.assign(document.createElement("div"), { className: "faint" });
    this.layer = document.createElement("b");
    const head = Object.assign(document.createElement("div"), { className: "head" });
    head.append(this.title, this.layer);
    this.element.append(head, ...this.lines.map(({ line }) => line), this.foot);
    document.querySelector("main").append(this.element);
  }

  hide() {
    this.element.hidden = true;
  }

  // `rect` is what it keeps clear of, in the window.
  show(row, layer, rect) {
    const { model } = this.page, isRead = model.isRead(layer, row), best = isRead ? model.best(layer, row, this.lines.length) : [];
    this.layer.textContent = `layer ${layer}`;
    this.title.textContent = row < model.patches ? `Patch ${row} (row ${Math.floor(row / model.columns)}, column ${row % model.columns})` : model.name(row);
    this.lines.forEach(({ line, chip, value }, i) => {
      line.hidden = i >= best.length;
      if (line.hidden) return;
      const { token, probability } = best[i];
      chip.textContent = token.shown;
      chip.dataset.mark = mark(token.id);
      chip.style.setProperty("--hue", hue(token.id));
      value.textContent = figure(probability);
      line.style.setProperty("--share", probability);
    });
    const padding = row < model.patches && model.isPadding(row) ? "Shows nothing but padding. " : "";
    this.foot.textContent = isRead
      ? `${padding}Entropy ${model.entropy(layer, row).toFixed(2)} nats. Agrees with layer ${model.last} from layer ${model.agrees[row]} on.`
      : model.isRead(layer) ? "This patch was not read." : "This layer was not read.";
    const height = 66 + 22 * best.length, { style } = this.element, wide = document.documentElement.clientWidth;
    const isRight = rect.right + GAP + WIDTH < wide;
    const left = isRight ? rect.right + GAP : rect.left - GAP - WIDTH > 0 ? rect.left - GAP - WIDTH : Math.max(0, Math.min(rect.left, wide - WIDTH - GAP));
    const beside = isRight || rect.left - GAP - WIDTH > 0;
    const top = beside ? rect.top : rect.bottom + GAP + height < innerHeight ? rect.bottom + GAP : rect.top - GAP - height;
    style.setProperty("transform", `translate(${Math.round(left)}px, ${Math.round(Math.max(0, Math.min(top, innerHeight - height - GAP)))}px)`);
    this.element.hidden = false;
  }
}
