// The API. A page that is a file holds what it needs in itself (`#embedded`: answers by their paths, gzipped, in base64).

const { root = "", corpus = "" } = document.documentElement.dataset;
const embedded = JSON.parse(document.getElementById("embedded")?.textContent ?? "{}");

export { root, corpus };
export const isFile = document.getElementById("embedded") !== null;

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

export const page = (name) => (isFile ? null : `${root}/${corpus}/${name}`);

async function held(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
}

async function answered(where, options) {
  if (embedded[where]) return held(embedded[where]);
  if (isFile) throw new ApiError({ kind: "file", message: "This page is a file: it asks no service." }, 0);
  let response;
  try {
    response = await fetch(root + where, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError({ kind: "service", message: "The service does not answer.", hint: "Is it running?" }, 0);
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

export const getJson = async (where, signal) => (await answered(where, { signal })).json();
export const getBytes = async (where, signal) => (await answered(where, { signal })).arrayBuffer();

export async function post(name, body, signal) {
  const options = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ corpus, ...body }), signal };
  return (await answered(`/v1/${name}`, options)).json();
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
