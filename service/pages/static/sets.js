// Sets of images that this browser keeps, each under a name. A set is a query, too, which a link can carry to others.

import { corpus } from "./api.js";

const KEY = `vlq:sets:${corpus}`;

export function kept() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(found) ? found.filter(({ name, images }) => typeof name === "string" && Array.isArray(images)) : [];
  } catch {
    return [];
  }
}

// Whether they could be kept.
export function keep(sets) {
  try {
    localStorage.setItem(KEY, JSON.stringify(sets));
    return true;
  } catch {
    return false;
  }
}

export const query = (images) => `images(image_id in [${images.map(Number).join(", ")}])`;

// Something is to be done when another window keeps others.
export const changed = (act) => addEventListener("storage", (event) => event.key === KEY && act());
