// What was typed and attached in each chat and is not sent yet. The files are in a database of their own, so that a page of an
// older version can still open that of the conversations.

import { recall, remember } from "./recall.js";

const MAX_DRAFTS = 50; // of the chats that were typed in last
const MAX_TRAYS = 10; // each with up to 20 files

/** One chat without messages is as good as another. */
const nameOf = ({ id, messages }) => (messages.length > 0 ? id : "new");

export const draftOf = (conversation) => recall("drafts", {})[nameOf(conversation)] ?? "";

export function keepDraft(conversation, text) {
  const { [nameOf(conversation)]: _, ...others } = recall("drafts", {});
  const kept = Object.entries(text.trim() ? { ...others, [nameOf(conversation)]: text } : others).slice(-MAX_DRAFTS);
  remember("drafts", Object.fromEntries(kept));
}

/** The files that were attached there. */
export async function filesOf(conversation) {
  const found = await withTrays("readonly", (trays) => trays.get(nameOf(conversation))).catch(() => null);
  return found?.files ?? [];
}

/** Rejects if the browser has no room for them. */
export async function keepFiles(conversation, files) {
  const name = nameOf(conversation);
  await withTrays("readwrite", (trays) => {
    if (files.length === 0) return trays.delete(name);
    trays.put({ name, files, changed: Date.now() });
    trays.index("changed").getAllKeys().onsuccess = ({ target: { result } }) => result.slice(0, -MAX_TRAYS).forEach((old) => trays.delete(old));
    return null;
  });
}

/** Of chats that were deleted. `isKnown(id)`: there is such a chat. */
export async function dropDrafts(isKnown) {
  const isLost = (name) => name !== "new" && !isKnown(name);
  remember("drafts", Object.fromEntries(Object.entries(recall("drafts", {})).filter(([name]) => !isLost(name))));
  const names = await withTrays("readonly", (trays) => trays.getAllKeys()).catch(() => []);
  const lost = names.filter(isLost);
  if (lost.length > 0) await withTrays("readwrite", (trays) => lost.forEach((name) => trays.delete(name)) ?? null);
}

/** `change(trays)` returns a request, whose result this resolves to, or null. */
async function withTrays(mode, change) {
  const database = await open();
  try {
    return await new Promise((resolve, reject) => {
      const transaction = database.transaction("trays", mode);
      const request = change(transaction.objectStore("trays"));
      transaction.oncomplete = () => resolve(request?.result);
      transaction.onabort = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}

function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("omni.drafts", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("trays", { keyPath: "name" }).createIndex("changed", "changed");
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
