// The API. A page that is a file asks no service: answers are in the page (`#embedded`: by their paths, gzipped, in
// base64) or in scripts beside it, which are run when they are wanted: contents.js says which there are.

const { root = "", corpus = "", cache = "" } = document.documentElement.dataset;
const own = document.getElementById("embedded");
// Pages by their paths behind the corpus, pictures by their images' numbers, scripts by what their answers' paths begin with.
const { pages = {}, pictures = {}, scripts = {} } = globalThis.vlqContents ?? {};

export { root, corpus };
export const isFile = own !== null;

export class ApiError extends Error {
  constructor(told, status) {
    super(told.message);
    Object.assign(this, { kind: told.kind, hint: told.hint, span: told.span, status });
  }
}

// The path of something of this corpus, with its parameters.
export function path(name, values = {}) {
  const parts = new URLSearchParams({ ...values, corpus });
  return `/v1/${name}?${parts}`;
}

// The address of a page of a corpus; null where there is none, as there may be beside a file.
export function page(name, of = corpus) {
  if (!isFile) return `${root}/${of}/${name}`;
  const [path, asked] = name.split("?"), file = pages[path];
  return file ? file + (asked ? `#${asked}` : "") : null;
}

export const pixels = (number, side, of = corpus) =>
  isFile ? pictures[number] ?? "" : `${root}/v1/images/${number}/pixels?${new URLSearchParams({ side, corpus: of })}`;

// --- files -------------------------------------------------------------------------------------------------------

// What an answer is kept by: in whatever order its parameters stand, without those that all answers here have in common.
function keyOf(where) {
  const { pathname, searchParams } = new URL(where, "file:///");
  for (const name of ["corpus", "k", "part"]) searchParams.delete(name);
  searchParams.sort();
  return `${pathname}?${searchParams}`;
}

const embedded = new Map();
const running = new Map();
globalThis.vlqAnswers = (answers) => {
  for (const [where, text] of Object.entries(answers)) embedded.set(keyOf(where), text);
};
globalThis.vlqAnswers(JSON.parse(own?.textContent ?? "{}"));

const scriptOf = (key) => Object.keys(scripts).find((path) => key.startsWith(`${path}?`) || key.startsWith(`${path}/`));

function run(file) {
  const script = Object.assign(document.createElement("script"), { src: file });
  const done = new Promise((resolve) => { script.onload = script.onerror = resolve; });
  document.head.append(script);
  return done;
}

// Whether an answer can be had.
export const isHeld = (where) => !isFile || embedded.has(keyOf(where)) || scriptOf(keyOf(where)) !== undefined;

async function held(where) {
  const key = keyOf(where), path = scriptOf(key);
  if (!embedded.has(key) && path) {
    if (!running.has(path)) running.set(path, run(scripts[path]));
    await running.get(path);
  }
  if (!embedded.has(key)) {
    const hint = cache && "What has is said at the foot of this page.";
    throw new ApiError({ kind: "file", message: "These files have no answer to that.", hint }, 0);
  }
  const bytes = Uint8Array.from(atob(embedded.get(key)), (character) => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
}

// --- what is asked -------------------------------------------------------------------------------------------------

const unanswered = () => new ApiError({ kind: "service", message: "The service does not answer.", hint: "Is it running?" }, 0);

async function answered(where, options) {
  if (isFile) return held(where);
  let response;
  try {
    response = await fetch(root + where, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : unanswered();
  }
  if (response.ok) return response;
  let told;
  try {
    told = await response.json();
  } catch {
    told = { kind: "service", message: `The service answers ${response.status}.` };
  }
  throw new ApiError(told, response.status);
}

// An answer's body; one that breaks off is none.
async function contents(response, kind) {
  try {
    return await response[kind]();
  } catch (error) {
    throw error.name === "AbortError" ? error : unanswered();
  }
}

export const getJson = async (where, signal) => contents(await answered(where, { signal }), "json");
export const getBytes = async (where, signal) => contents(await answered(where, { signal }), "arrayBuffer");
export const getText = async (where, signal) => contents(await answered(where, { signal }), "text");

export async function post(name, body, signal) {
  if (isFile) return (await held(`/v1/${name}?${new URLSearchParams(body)}`)).json();
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ corpus, ...body }), signal };
  return contents(await answered(`/v1/${name}`, options), "json");
}

// Waits until nothing new came for so many milliseconds; what is under way for something older is cancelled.
export function latest(call, wait = 150) {
  let timer = 0, controller = null;
  return (...values) =>
    new Promise((resolve, reject) => {
      clearTimeout(timer);
      controller?.abort();
      controller = new AbortController();
      const { signal } = controller;
      timer = setTimeout(() => call(...values, signal).then(resolve, (error) => error.name !== "AbortError" && reject(error)), wait);
    });
}
