// What could not be had is said in its place, with a button that tries again where that may help.

import { ApiError, isFile } from "./api.js";

const WRONG = [400, 404, 422]; // what was asked: asked again it is as wrong

// `again` is called by the button; `more` is said behind the error.
export function trouble(error, again, more = "") {
  const told = error instanceof ApiError ? [error.message, error.hint, more] : ["The service does not answer.", more];
  const said = Object.assign(document.createElement("p"), { className: "mistake trouble", textContent: `${told.filter(Boolean).join(" ")} ` });
  said.setAttribute("role", "alert");
  if (!isFile && !WRONG.includes(error.status)) said.append(Object.assign(document.createElement("button"), { type: "button", textContent: "Try again", onclick: again }));
  return said;
}

// What a page waits for is cancelled when somebody leaves it. Safari shows it as it was left to who comes back.
addEventListener("pageshow", ({ persisted }) => { if (persisted && document.querySelector(".trouble button")) location.reload(); });
