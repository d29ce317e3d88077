// The image's page. All that it knows is in #data, which service/pages/image.py makes.

const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const [rows, columns] = data.grid;
const SHOWN = 5; // tokens of a reading in the table
const COLOURS = [[1, "#fde725"], [3, "#5ec962"], [9, "#21918c"], [255, "#3b528b"]]; // viridis, by rank

const numbers = (text, Kind) => new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
for (const site of data.sites) {
  site.token = numbers(site.token, data.wide ? Uint32Array : Uint16Array); // (layer, position, k): numbers of data.tokens
  site.cost = numbers(site.cost, Uint16Array); // the same: what probabilityOf makes probabilities of
  site.read = site.read && new Set(site.read); // null: all positions were
}
const sites = Object.fromEntries(data.sites.map((site) => [site.name, site]));

const state = { layer: data.layers - 1, hovered: null, pinned: null, wanted: null };
const at = (site, position) => ({ site, position });
const selected = () => state.hovered ?? state.pinned;
const same = (a, b) => a !== null && b !== null && a.site === b.site && a.position === b.position;

const added = (parent, name, text) => {
  const child = document.createElement(name);
  if (text !== undefined) child.textContent = text;
  parent.append(child);
  return child;
};

const cell = (site, layer, position) => (layer * site.positions + position) * data.k;
const probabilityOf = (cost) => Math.exp(-((cost / data.scale) ** 2));
const figure = (p) => (p > 0 && p < 0.0005 ? p.toExponential(0) : p.toFixed(3));
const isRead = (site, position) => !site.read || site.read.has(position);
const colourOf = (rank) => COLOURS.find(([most]) => rank <= most)[1];

// The rank of the wanted tokens; 0 if none is among the k best.
function rankAt(site, layer, position) {
  if (!state.wanted || !isRead(site, position)) return 0;
  const start = cell(site, layer, position);
  for (let i = 0; i < data.k; i++) if (state.wanted.has(site.token[start + i])) return i + 1;
  return 0;
}

// What those among the k best add up to.
function probabilityAt(site, layer, position) {
  const start = cell(site, layer, position);
  let sum = 0;
  for (let i = start; i < start + data.k; i++) if (state.wanted.has(site.token[i])) sum += probabilityOf(site.cost[i]);
  return sum;
}

// --- the token ------------------------------------------------------------------------------------------------

const folded = (text) => text.trim().toLowerCase();
const byWord = new Map();
data.tokens.forEach((token, i) => {
  const word = folded(token.text);
  byWord.set(word, [...(byWord.get(word) ?? []), i]);
});

function search() {
  const word = folded(element("word").value.replace(/^▁/, ""));
  const named = (byWord.get(word) ?? []).filter((i) => data.tokens[i].starts);
  state.wanted = word && named.length ? new Set(named) : null;
  const near = [...byWord.keys()].filter((other) => word && other.startsWith(word)).sort();
  element("words").replaceChildren(...near.slice(0, 12).map((other) => new Option(other)));
  element("found").textContent = !word ? "" : told(word, named);
  counts();
  legend();
}

function told(word, named) {
  if (!named.length) return `“${word}” is not among the ${data.k} best tokens anywhere in this image.`;
  const site = sites.patch;
  let first = null, most = [0, 0, 0];
  for (let layer = 0; layer < data.layers; layer++) {
    for (let position = 0; position < site.positions; position++) {
      const rank = rankAt(site, layer, position);
      if (!rank) continue;
      if (rank === 1) first ??= layer;
      const probability = probabilityAt(site, layer, position);
      if (probability > most[0]) most = [probability, layer, position];
    }
  }
  const tokens = named.map((i) => `${data.tokens[i].shown} (${data.tokens[i].id})`).join(", ");
  if (!most[0]) return `${tokens}: not among the ${data.k} best of any patch.`;
  const read = first === null ? "no patch decodes to it" : `first read at layer ${first}`;
  return `${tokens}: ${read}; most probable at layer ${most[1]}, ${figure(most[0])} at patch ${most[2]}.`;
}

// A bar a layer: how many patches have the token among their k best, and how many decode to it.
function counts() {
  const strip = element("strip");
  strip.replaceChildren();
  if (!state.wanted) return;
  const found = [];
  for (let layer = 0; layer < data.layers; layer++) {
    const ranks = Array.from({ length: sites.patch.positions }, (_, position) => rankAt(sites.patch, layer, position));
    found.push([ranks.filter((rank) => rank === 1).length, ranks.filter((rank) => rank > 0).length]);
  }
  const most = Math.max(1, ...found.map(([, any]) => any));
  found.forEach(([read, any], layer) => {
    const bar = document.createElement("button");
    bar.tabIndex = -1;
    bar.title = `layer ${layer}: ${read} patches decode to it, ${any} have it among their ${data.k} best`;
    for (const count of [any - read, read]) {
      const part = document.createElement("span");
      part.style.height = `${(count / most) * 100}%`;
      bar.append(part);
    }
    bar.onclick = () => show({ layer });
    strip.append(bar);
  });
}

function legend() {
  const line = element("legend");
  line.hidden = !state.wanted;
  const ranks = [[1, "what the patch decodes to"], [2, "its rank there"], [4, "and up"], [10, "and up"]];
  const entries = ranks.filter(([rank]) => rank <= data.k);
  line.replaceChildren(...entries.map(([rank, meaning]) => key(String(rank), meaning, colourOf(rank), rank < 4)));
  line.append(key("", "patches that decode to it, by layer", "var(--accent)"));
  line.append(key("", `that have it among their ${data.k} best`, "var(--some)"));
  line.append(key("", "text that decodes to it"));
}

function key(sign, meaning, colour = "", isLight = false) {
  const entry = document.createElement("span");
  const mark = added(entry, "i", sign);
  mark.style.background = colour;
  if (colour && sign) mark.style.color = isLight ? "black" : "white";
  if (!colour) mark.style.boxShadow = "inset 0 -3px var(--accent)";
  entry.append(meaning);
  return entry;
}

// --- the image ------------------------------------------------------------------------------------------------

const stage = element("stage"), overlay = element("overlay");

function boxOf(patch) {
  const row = Math.floor(patch / columns), column = patch % columns;
  return [data.x[column], data.y[row], data.x[column + 1], data.y[row + 1]];
}

function patchAt(event) {
  const bounds = overlay.getBoundingClientRect();
  const x = ((event.clientX - bounds.left) / bounds.width) * data.size[0];
  const y = ((event.clientY - bounds.top) / bounds.height) * data.size[1];
  const column = data.x.findIndex((edge, i) => edge <= x && x < data.x[i + 1]);
  const row = data.y.findIndex((edge, i) => edge <= y && y < data.y[i + 1]);
  return row < 0 || column < 0 ? null : at("patch", row * columns + column);
}

function draw() {
  const bounds = overlay.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
  overlay.width = Math.round(bounds.width * ratio);
  overlay.height = Math.round(bounds.height * ratio);
  const scale = bounds.width / data.size[0];
  const context = overlay.getContext("2d");
  context.scale(ratio, ratio);
  context.textAlign = "center";
  context.textBaseline = "middle";
  const read = [];
  for (let patch = 0; patch < sites.patch.positions; patch++) {
    const [x0, y0, x1, y1] = boxOf(patch).map((edge) => edge * scale);
    if (x1 <= x0 || y1 <= y0) continue; // it shows the padding alone
    const box = [x0, y0, x1 - x0, y1 - y0];
    const rank = rankAt(sites.patch, state.layer, patch);
    context.strokeStyle = "rgb(128 128 128 / 45%)";
    context.lineWidth = 0.5;
    context.strokeRect(...box);
    if (!isRead(sites.patch, patch)) {
      hatch(context, box);
      continue;
    }
    if (rank) {
      context.globalAlpha = 0.6;
      context.fillStyle = colourOf(rank);
      context.fillRect(...box);
      context.globalAlpha = 1;
    }
    if (rank === 1) read.push(box);
    label(context, box, rank, patch);
  }
  for (const box of read) outline(context, box, 1.5);
  const chosen = selected();
  if (chosen?.site === "patch") {
    const [x0, y0, x1, y1] = boxOf(chosen.position).map((edge) => edge * scale);
    outline(context, [x0, y0, x1 - x0, y1 - y0], 3);
  }
}

// A patch that was not read, of which nothing is known.
function hatch(context, [x, y, width, height]) {
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  context.fillStyle = "rgb(128 128 128 / 35%)";
  context.fillRect(x, y, width, height);
  context.strokeStyle = "rgb(255 255 255 / 45%)";
  context.lineWidth = 1;
  context.beginPath();
  for (let at = Math.floor((x - height) / 7) * 7; at < x + width; at += 7) {
    context.moveTo(at, y + height);
    context.lineTo(at + height, y);
  }
  context.stroke();
  context.restore();
}

// The token's rank, or without one what the patch decodes to, if there is room.
function label(context, [x, y, width, height], rank, patch) {
  let text = rank ? String(rank) : "", size = Math.min(15, height * 0.5, width * 0.55);
  if (!state.wanted) {
    text = data.tokens[sites.patch.token[cell(sites.patch, state.layer, patch)]].shown;
    size = Math.min(12, height * 0.3);
    if (size < 8) return;
    context.font = `${size}px ui-monospace, monospace`;
    while (text.length > 2 && context.measureText(text).width > width - 4) text = `${text.replace(/…$/, "").slice(0, -1)}…`;
  }
  if (!text || size < 6) return;
  context.font = `${size}px ui-monospace, monospace`;
  context.lineWidth = 3;
  context.lineJoin = "round";
  context.strokeStyle = "rgb(0 0 0 / 75%)";
  context.strokeText(text, x + width / 2, y + height / 2);
  context.fillStyle = "white";
  context.fillText(text, x + width / 2, y + height / 2);
}

function outline(context, box, width) {
  for (const [colour, wide] of [["black", width + 2], ["white", width]]) {
    context.strokeStyle = colour;
    context.lineWidth = wide;
    context.strokeRect(...box);
  }
}

// --- readings -------------------------------------------------------------------------------------------------

function title({ site, position }) {
  if (site === "patch") return `Patch ${position}: row ${Math.floor(position / columns)}, column ${position % columns}`;
  const of = site === "answer" ? "Answer" : position === sites.prompt.positions - 1 ? "Last prompt" : "Prompt";
  return `${of} token ${position}: ${sites[site].labels[position]}`;
}

function table() {
  const chosen = selected(), site = sites[chosen.site], shown = Math.min(SHOWN, data.k);
  element("where").textContent = title(chosen) + (isRead(site, chosen.position) ? "" : " (not read)");
  if (!isRead(site, chosen.position)) return element("readings").replaceChildren();
  const whole = document.createElement("table");
  const head = added(added(whole, "thead"), "tr");
  for (const text of ["layer", ...Array.from({ length: shown }, (_, i) => i + 1)]) added(head, "th", text).scope = "col";
  const body = added(whole, "tbody");
  for (let layer = 0; layer < data.layers; layer++) {
    const row = added(body, "tr");
    row.className = layer === state.layer ? "now" : "";
    const name = added(row, "th", layer);
    name.scope = "row";
    name.onclick = () => show({ layer });
    const start = cell(site, layer, chosen.position);
    for (let i = start; i < start + shown; i++) {
      const token = data.tokens[site.token[i]], share = probabilityOf(site.cost[i]);
      const box = added(row, "td");
      box.style.setProperty("--share", share);
      box.title = `${token.piece ?? "no piece"} (${token.id})`;
      box.className = state.wanted?.has(site.token[i]) ? "read" : "";
      const reading = added(box, "div");
      added(reading, "span", token.shown);
      added(reading, "b", figure(share));
    }
  }
  element("readings").replaceChildren(...whole.children);
}

// The prompt's tokens, and those of the answer: as patches are hovered and kept, so can these be.
const chips = data.sites.filter((site) => site.labels).flatMap((site) => {
  const line = added(element("text"), "div");
  line.append(site.name === "answer" ? "Answer: " : "Prompt: ");
  return site.labels.map((text, position) => {
    const chip = added(line, "button", text), place = at(site.name, position);
    chip.title = title(place);
    chip.onpointerenter = (event) => event.pointerType === "mouse" && show({ hovered: place });
    chip.onpointerleave = () => show({ hovered: null });
    chip.onclick = () => show({ pinned: place, hovered: null });
    return { chip, place };
  });
});

function mark() {
  for (const { chip, place } of chips) {
    chip.setAttribute("aria-pressed", same(state.pinned, place));
    chip.classList.toggle("read", rankAt(sites[place.site], state.layer, place.position) === 1);
  }
  [...element("strip").children].forEach((bar, layer) => bar.classList.toggle("now", layer === state.layer));
}

// --- what a person does ---------------------------------------------------------------------------------------

function show(change) {
  const before = { ...state };
  Object.assign(state, change);
  state.layer = Math.max(0, Math.min(data.layers - 1, state.layer));
  if (state.layer !== before.layer || !same(selected(), before.hovered ?? before.pinned)) update();
}

function update() {
  remember();
  element("layer").value = state.layer;
  element("number").textContent = state.layer;
  mark();
  draw();
  table();
}

function move(down, right) {
  const from = state.pinned?.site === "patch" ? state.pinned.position : 0;
  const row = Math.max(0, Math.min(rows - 1, Math.floor(from / columns) + down));
  const column = Math.max(0, Math.min(columns - 1, (from % columns) + right));
  show({ pinned: at("patch", row * columns + column), hovered: null });
}

const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const centre = [Math.floor(rows / 2), Math.floor(columns / 2)];
const apart = (patch) => Math.hypot(Math.floor(patch / columns) - centre[0], (patch % columns) - centre[1]);
const middle = at("patch", [...(sites.patch.read ?? [])].sort((a, b) => apart(a) - apart(b))[0] ?? centre[0] * columns + centre[1]);

stage.addEventListener("pointermove", (event) => event.pointerType === "mouse" && show({ hovered: patchAt(event) }));
stage.addEventListener("pointerleave", () => show({ hovered: null }));
stage.addEventListener("click", (event) => show({ pinned: patchAt(event) ?? state.pinned, hovered: null }));
stage.addEventListener("keydown", (event) => {
  if (!MOVES[event.key]) return;
  event.preventDefault();
  move(...MOVES[event.key]);
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target === element("word")) return;
  if (event.key === "[" || event.key === "]") show({ layer: state.layer + (event.key === "]" ? 1 : -1) });
  else if (event.key === "/") { event.preventDefault(); element("word").focus(); }
  else if (event.key === "Escape") show({ pinned: middle, hovered: null });
});
element("layer").addEventListener("input", (event) => show({ layer: Number(event.target.value) }));
element("word").addEventListener("input", () => { search(); update(); });
new ResizeObserver(draw).observe(stage);

// --- the address: #layer=6&patch=36&token=dog -----------------------------------------------------------------

function remember() {
  const { site, position } = state.pinned, word = element("word").value.trim();
  const parts = new URLSearchParams({ layer: state.layer, [site]: position, ...(word ? { token: word } : {}) });
  history.replaceState(null, "", `#${parts}`);
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const whole = (name, count) => {
    const value = Number(parts.get(name) ?? NaN);
    return Number.isInteger(value) && value >= 0 && value < count ? value : null;
  };
  state.layer = whole("layer", data.layers) ?? state.layer;
  const named = data.sites.find((site) => whole(site.name, site.positions) !== null);
  state.pinned = named ? at(named.name, whole(named.name, named.positions)) : middle;
  element("word").value = parts.get("token") ?? "";
}

recall();
search();
update();
