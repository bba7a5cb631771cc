// Small values of this browser, one under each name: the open conversation, the key, what is folded.

/** A value that the browser has no room for is not kept. */
export function remember(name, value) {
  try {
    localStorage.setItem(`omni.${name}`, JSON.stringify(value));
  } catch {
    // full, or not allowed
  }
}

export function recall(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem(`omni.${name}`)) ?? fallback;
  } catch {
    return fallback;
  }
}
