// Conversations in localStorage, one entry each, written synchronously, so that closing the page loses nothing.

import { randomId } from "./dom.js";

const PREFIX = "omni.chat.";
const SAVE_EVERY_MS = 300;
const TITLE_LENGTH = 48;

export class Store {
  /** `onError(text)`: storage is full. `onForeign(id)`: another tab changed a conversation. */
  constructor({ onError, onForeign }) {
    Object.assign(this, { onError, onForeign });
    this.loaded = new Map(); // id -> conversation: one object each, shared by the page and a running answer
    this.unsaved = new Set();
    this.timer = null;
    for (const key of Object.keys(localStorage)) if (key.startsWith(PREFIX)) this.load(key);
    window.addEventListener("pagehide", () => this.flush());
    document.addEventListener("visibilitychange", () => document.hidden && this.flush());
    window.addEventListener("storage", ({ key, newValue }) => key?.startsWith(PREFIX) && this.follow(key, newValue));
  }

  follow(key, newValue) {
    const id = key.slice(PREFIX.length);
    if (this.unsaved.has(id)) return; // this tab has a newer version to write
    if (newValue === null) this.loaded.delete(id);
    else this.load(key);
    this.onForeign(id);
  }

  load(key) {
    try {
      const conversation = JSON.parse(localStorage.getItem(key));
      this.loaded.set(conversation.id, conversation);
    } catch {
      localStorage.removeItem(key); // not ours, or cut short
    }
  }

  /** Newest first. */
  list() {
    return [...this.loaded.values()].sort((one, other) => other.updated - one.updated);
  }

  get(id) {
    return this.loaded.get(id);
  }

  create(options) {
    const conversation = { id: randomId(), title: "New chat", updated: Date.now(), options: { ...options }, messages: [] };
    this.loaded.set(conversation.id, conversation);
    return conversation;
  }

  remove(id) {
    this.loaded.delete(id);
    this.unsaved.delete(id);
    localStorage.removeItem(PREFIX + id);
  }

  /** Schedules a write; `flush` writes now. A conversation without messages is not stored. */
  save(conversation) {
    if (!this.loaded.has(conversation.id)) return; // deleted while its answer was stopping
    const first = conversation.messages.find((message) => message.role === "user");
    if (first) conversation.title = first.content.trim().replace(/\s+/g, " ").slice(0, TITLE_LENGTH);
    this.unsaved.add(conversation.id);
    this.timer ??= setTimeout(() => this.flush(), SAVE_EVERY_MS);
  }

  flush() {
    clearTimeout(this.timer);
    this.timer = null;
    for (const id of this.unsaved) {
      const conversation = this.loaded.get(id);
      try {
        if (conversation.messages.length > 0) localStorage.setItem(PREFIX + id, JSON.stringify(conversation));
      } catch {
        this.onError("The browser's storage is full: this conversation is not kept. Delete old ones to make room.");
      }
    }
    this.unsaved.clear();
  }
}

/** One value under one name, with a default. */
export const remember = (name, value) => localStorage.setItem(`omni.${name}`, JSON.stringify(value));

export function recall(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem(`omni.${name}`)) ?? fallback;
  } catch {
    return fallback;
  }
}
