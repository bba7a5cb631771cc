// Small values of this browser, one under each name: the open conversation, the key, what is folded.

export const remember = (name, value) => localStorage.setItem(`omni.${name}`, JSON.stringify(value));

export function recall(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem(`omni.${name}`)) ?? fallback;
  } catch {
    return fallback;
  }
}
