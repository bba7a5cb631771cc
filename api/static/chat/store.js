// The conversations of this browser. All are listed; the messages of one are read when it is opened.

import { append, plant } from "./branches.js";
import { Database } from "./database.js";
import { randomId } from "./dom.js";
import { messagesOfOldForm, OLD_PREFIX } from "./old_form.js";

const SAVE_EVERY_MS = 300;
const TITLE_LENGTH = 48;
const KEPT = ["id", "title", "isNamed", "created", "updated", "isPinned", "folder", "options", "chosen", "life"];

const NO_DATABASE = "This browser lets the page keep nothing: conversations are lost when the page is closed.";
const FULL = "The browser's storage is full: this conversation is not kept. Delete or export old ones to make room.";

export class Store {
  /** `onError(text)`: nothing can be kept. `onForeign(id)`: another tab changed a conversation. `onOrder(order)`: from another
   * tab. `isBusy(id)`: this tab is writing this message. */
  constructor({ onError, onForeign, onOrder, isBusy }) {
    Object.assign(this, { onError, onForeign, onOrder, isBusy });
    this.conversations = new Map();
    this.removed = new Set(); // ids, which a tab that has not heard of it may write once more
    this.unsaved = { conversations: new Set(), messages: new Map() };
    this.texts = null; // of all messages, from the first search on
    this.timer = null;
    this.channel = new BroadcastChannel("omni.conversations");
    this.news = new Promise((resolve) => (this.isStarted = resolve)); // is taken in its order
    this.channel.addEventListener("message", ({ data }) => (this.news = this.news.then(() => this.follow(data))));
    window.addEventListener("pagehide", () => this.flush());
    document.addEventListener("visibilitychange", () => document.hidden && this.flush());
  }

  async start() {
    try {
      this.database = await Database.open();
      for (const one of await this.database.conversations()) this.conversations.set(one.id, { ...one, messages: [] });
      await this.takeOldForm();
    } catch {
      this.database = null;
      this.onError(NO_DATABASE);
    }
    this.isStarted();
  }

  /** Until now one entry of localStorage held a conversation. */
  async takeOldForm() {
    for (const key of Object.keys(localStorage).filter((name) => name.startsWith(OLD_PREFIX))) {
      const found = messagesOfOldForm(localStorage.getItem(key));
      if (found && !this.conversations.has(found.id)) {
        const conversation = this.create(found.options, found);
        for (const message of found.messages) append(conversation, message);
        for (const message of conversation.messages) this.save(conversation, message);
      }
    }
    if (await this.flush()) {
      for (const key of Object.keys(localStorage)) if (key.startsWith(OLD_PREFIX)) localStorage.removeItem(key);
    }
  }

  /** Newest first. */
  list() {
    return [...this.conversations.values()].sort((one, other) => other.updated - one.updated);
  }

  get(id) {
    return this.conversations.get(id);
  }

  create(options, { id = randomId(), title = "New chat", updated = Date.now(), ...rest } = {}) {
    const { isNamed = false, isPinned = false, folder = null, created = updated } = rest;
    const fields = { id, title, isNamed, created, updated, isPinned, folder, chosen: {}, life: 0 };
    const conversation = { ...fields, options: { ...options }, messages: [], nodes: new Map() };
    this.conversations.set(id, conversation);
    return conversation;
  }

  /** Nothing was said in it, so nothing of it is kept. */
  dropEmpty(conversation) {
    if (conversation.nodes?.size === 0) this.conversations.delete(conversation.id);
  }

  /** Reads the messages, if they are not here yet. */
  async load(conversation) {
    if (!conversation.nodes) {
      const messages = this.database ? await this.database.messagesOf(conversation.id) : [];
      if (!conversation.nodes) plant(conversation, messages); // two may have asked
    }
    return conversation;
  }

  /** The conversations with answers that were running when the page was closed. */
  async unfinished() {
    const ids = this.database ? await this.database.unfinished() : [];
    return Promise.all(ids.map((id) => this.get(id)).filter(Boolean).map((one) => this.load(one)));
  }

  /** Schedules a write of the conversation and of one message of it; `flush` writes now. */
  save(conversation, message) {
    if (this.conversations.get(conversation.id) !== conversation) return; // deleted while its answer was stopping
    const first = conversation.messages.find(({ role }) => role === "user");
    if (first && !conversation.isNamed) conversation.title = titleOf(first.content || first.attachments?.[0]?.name || "");
    this.unsaved.conversations.add(conversation);
    if (message && conversation.nodes.has(message.id)) this.unsaved.messages.set(message.id, message);
    this.timer ??= setTimeout(() => this.flush(), SAVE_EVERY_MS);
  }

  /** Resolves to whether all is kept. A conversation without messages is not. */
  async flush() {
    clearTimeout(this.timer);
    this.timer = null;
    const { conversations, messages } = this.unsaved;
    const heads = [...conversations].filter(({ nodes }) => !nodes || nodes.size > 0);
    this.unsaved = { conversations: new Set(), messages: new Map() };
    if (this.texts) for (const message of messages.values()) takeText(this.texts, message);
    if (!this.database || heads.length === 0) return Boolean(this.database);
    try {
      await this.database.put(heads.map(forDatabase), [...messages.values()]);
    } catch {
      this.onError(FULL);
      return false;
    }
    const written = (id) => [...messages.values()].filter(({ conversation }) => conversation === id).map((message) => message.id);
    for (const { id } of heads) this.tell({ changed: id, messages: written(id) });
    return true;
  }

  async remove(conversation) {
    this.dismiss(conversation);
    await this.database?.remove(conversation.id).catch(() => this.onError(NO_DATABASE));
    this.tell({ removed: conversation.id });
  }

  dismiss(conversation) {
    this.removed.add(conversation.id);
    this.conversations.delete(conversation.id);
    this.unsaved.conversations.delete(conversation);
    for (const message of conversation.nodes?.values() ?? []) this.unsaved.messages.delete(message.id);
    this.texts = null;
  }

  /** Brings back what was removed, with all its messages, into its next life. */
  restore(conversation) {
    conversation.life = (conversation.life ?? 0) + 1;
    this.removed.delete(conversation.id);
    this.conversations.set(conversation.id, conversation);
    for (const message of conversation.nodes.values()) this.save(conversation, message);
    this.save(conversation);
    this.tell({ restored: conversation.id });
    return this.flush();
  }

  has(message) {
    return this.conversations.get(message.conversation)?.nodes?.get(message.id) === message;
  }

  /** Of messages that have left the conversation. */
  async forget(conversation, messages) {
    for (const { id } of messages) this.unsaved.messages.delete(id);
    this.texts = null;
    await this.database?.removeMessages(messages).catch(() => this.onError(NO_DATABASE));
    this.tell({ changed: conversation.id, gone: messages.map(({ id }) => id) });
    this.save(conversation);
    await this.flush();
  }

  tell(news) {
    this.channel.postMessage(news);
  }

  /** News of another tab. */
  async follow({ changed, messages = [], gone = [], removed, restored, order }) {
    this.texts = null;
    if (order) this.onOrder(order);
    if (restored) this.removed.delete(restored);
    if (removed) await this.removeToo(removed);
    if (changed && !this.removed.has(changed)) await this.readAgain(changed, messages, gone);
  }

  /** Another tab has removed it; what this one wrote before it heard of that goes, too. */
  async removeToo(id) {
    const conversation = this.conversations.get(id);
    if (!conversation) return;
    this.dismiss(conversation);
    this.onForeign(id);
    if (conversation.nodes) await this.database?.remove(id, conversation.life).catch(() => {});
  }

  /** Takes over what another tab wrote of a conversation and these messages, but for what this tab is about to write. */
  async readAgain(id, ids, gone = []) {
    const kept = await this.database?.conversation(id);
    if (!kept) return;
    const conversation = this.conversations.get(id) ?? { messages: [] };
    if (!this.unsaved.conversations.has(conversation)) Object.assign(conversation, kept);
    this.conversations.set(id, conversation);
    const { nodes } = conversation;
    if (nodes) {
      const isMine = (one) => this.isBusy(one) || this.unsaved.messages.has(one);
      const read = await Promise.all(ids.map((one) => this.database.message(id, one)));
      for (const message of read.filter(Boolean)) {
        const known = nodes.get(message.id);
        if (!isMine(message.id)) nodes.set(message.id, Object.assign(known ?? {}, message));
        else if (known) known.parent = message.parent; // where it stands, whoever is writing it
      }
      for (const one of gone) nodes.delete(one);
      plant(conversation, [...nodes.values()].sort((one, other) => one.order - other.order));
    }
    this.onForeign(id);
  }

  /** All messages, for the search. */
  async allMessages() {
    if (!this.texts) {
      const texts = new Map();
      await this.database?.eachMessage((message) => takeText(texts, message));
      for (const { nodes } of this.conversations.values()) for (const message of nodes?.values() ?? []) takeText(texts, message);
      this.texts = texts;
    }
    return [...this.texts.values()];
  }
}

const takeText = (texts, { id, conversation, content }) => texts.set(`${conversation} ${id}`, { conversation, content });

const forDatabase = (conversation) => Object.fromEntries(KEPT.map((name) => [name, conversation[name]]));

const titleOf = (text) => text.trim().replace(/\s+/g, " ").slice(0, TITLE_LENGTH) || "New chat";
