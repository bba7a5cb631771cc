// The conversations: which one is open, the list of them, and what its menus do.

import { isRunning } from "./answer.js";
import { address, addressed, wireAddress } from "./address.js";
import { ask } from "./ask.js";
import { append, copies, lineage, plant } from "./branches.js";
import { byId } from "./dom.js";
import { keepDraft, keepFiles } from "./drafts.js";
import { download, fromFile, toJson, toMarkdown } from "./exchange.js";
import { recall, remember } from "./recall.js";
import { search } from "./search.js";
import { Sidebar } from "./sidebar.js";
import { Store } from "./store.js";
import { Toast } from "./toast.js";

const BRANCH = "Branch of ";
const SEARCH_AFTER_MS = 120;

export class Conversations {
  /** `onOpen(conversation)`; `onForeign(conversation)`: another tab or an import has changed it; `onOrder(order)`: another tab
   * wants something of an answer; `onRemove(conversation)`; `isBusy(messageId)`: an answer of this tab. */
  constructor({ onOpen, onForeign, onOrder, onRemove, isBusy }) {
    Object.assign(this, { onOpen, onForeign, onRemove });
    this.toast = new Toast();
    this.store = new Store({ onError: (text) => this.toast.show(text), onForeign: (id) => this.follow(id), onOrder, isBusy });
    this.running = new Map(); // conversation id -> number of its answers that run in this tab
    this.found = null; // by the search, if there is one
    this.sidebar = new Sidebar({
      onOpen: (id) => this.open(this.store.get(id)),
      onNew: () => this.openNew(),
      onSearch: (query) => this.searchLater(query),
      onRename: (conversation, title) => this.rename(conversation, title),
      onPlace: (id, place) => this.place(this.store.get(id), place),
      onKey: (key, conversation) => this.press(key, conversation),
      onRefresh: () => this.refresh(),
      menuOf: (conversation) => this.menuOf(conversation),
      menuOfFolder: (name) => this.menuOfFolder(name),
      menuOfAll: () => this.menuOfAll(),
    });
    this.file = byId("import");
    this.file.addEventListener("change", () => this.importFiles([...this.file.files]));
    this.current = this.store.create({});
  }

  async start() {
    await this.store.start();
    const isNew = history.state?.chat && !addressed(); // this tab showed an empty chat when it was loaded again
    const last = isNew ? null : (this.store.get(recall("open", null)) ?? this.store.list().find((one) => one !== this.current));
    const kept = this.store.get(addressed()) ?? last;
    wireAddress((id) => this.open(this.store.get(id) ?? this.empty()));
    if (kept && this.current.messages.length === 0) await this.open(kept);
    else this.opened(this.current);
  }

  async open(conversation) {
    if (!conversation) return this.refresh(); // deleted in another tab
    this.wanted = conversation;
    await this.store.load(conversation);
    if (this.wanted === conversation) this.opened(conversation); // no other was asked for meanwhile
  }

  opened(conversation) {
    if (conversation !== this.current) this.store.dropEmpty(this.current);
    this.wanted = this.current = conversation;
    remember("open", conversation.id);
    address(conversation);
    this.onOpen(conversation);
    this.refresh();
  }

  openNew({ folder = null } = {}) {
    if (this.current.messages.length > 0 || folder) this.opened(this.store.create(this.current.options, { folder }));
    byId("text").focus();
  }

  /** A new chat with what was said up to this answer, or before this question, which stands in the box there. */
  async branchOff(message) {
    const from = this.current;
    const title = `${BRANCH}${from.title.replace(BRANCH, "")}`;
    const conversation = this.store.create(from.options, { title, isNamed: true, folder: from.folder });
    const isQuestion = message.role === "user";
    for (const one of copies([...lineage(from, message), ...(isQuestion ? [] : [message])])) append(conversation, one);
    for (const one of conversation.messages) this.store.save(conversation, one);
    await this.store.flush();
    if (isQuestion) {
      keepDraft(conversation, message.content);
      await keepFiles(conversation, message.attachments ?? []).catch(() => {}); // they are in the other chat
    }
    this.opened(conversation);
    byId("text").focus();
    this.toast.show(`A new chat, with what was said up to there in “${from.title}”.`, "Back", () => this.open(from));
  }

  empty() {
    return this.current.messages.length > 0 ? this.store.create(this.current.options) : this.current;
  }

  /** An answer of this conversation has begun (1) or ended (-1). */
  count(conversation, step) {
    this.running.set(conversation.id, (this.running.get(conversation.id) ?? 0) + step);
    this.refresh();
  }

  refresh() {
    const isListed = (one) => one === this.current || !one.nodes || one.nodes.size > 0;
    const answers = ({ id, messages }) => this.running.get(id) > 0 || messages.some(isRunning);
    this.sidebar.show(this.store.list().filter(isListed), this.current, answers, this.found);
    address(this.current);
    document.title = this.current.messages.length > 0 ? `${this.current.title} - Protocol OMNI` : "Protocol OMNI";
  }

  async follow(id) {
    const conversation = this.store.get(id);
    if (conversation) this.onForeign(conversation);
    else if (id === this.current.id) this.openNext();
    this.refresh();
  }

  openNext() {
    return this.open(this.store.list().find((one) => one !== this.current) ?? this.store.create(this.current.options));
  }

  // search

  searchLater(query) {
    clearTimeout(this.timer);
    this.query = query.trim();
    if (this.query) this.timer = setTimeout(() => this.search(), SEARCH_AFTER_MS);
    else this.showFound(null);
  }

  async search() {
    const { query } = this;
    const messages = await this.store.allMessages();
    if (query === this.query) this.showFound(search(query, this.store.list(), messages));
  }

  showFound(found) {
    this.found = found;
    this.refresh();
  }

  // what the menus do

  menuOf(conversation) {
    return [
      ["Rename", () => this.sidebar.rename(conversation)],
      [conversation.isPinned ? "Unpin" : "Pin", () => this.change([conversation], { isPinned: !conversation.isPinned })],
      ["Move to folder…", () => this.move(conversation)],
      ["Export as Markdown", () => this.exportMarkdown(conversation)],
      ["Export as JSON", () => this.exportJson([conversation], conversation.title)],
      ["Delete", () => this.remove([conversation]), "danger"],
    ];
  }

  menuOfFolder(folder) {
    const members = this.store.list().filter((one) => one.folder === folder);
    return [
      ["New chat in this folder", () => this.openNew({ folder })],
      ["Rename folder…", () => this.renameFolder(folder, members)],
      ["Export as JSON", () => this.exportJson(members, folder)],
      ["Remove folder, keep its chats", () => this.change(members, { folder: null })],
      ["Delete folder and its chats", () => this.remove(members), "danger"],
    ];
  }

  menuOfAll() {
    const all = this.store.list().filter(({ nodes }) => !nodes || nodes.size > 0);
    return [
      ["Import chats…", () => this.file.click()],
      ["Export all as JSON", () => this.exportJson(all, "chats")],
      ["Delete all chats", () => this.remove(all), "danger"],
    ];
  }

  change(conversations, fields) {
    for (const conversation of conversations) {
      Object.assign(conversation, fields);
      this.store.save(conversation);
    }
    this.store.flush();
    this.refresh();
  }

  rename(conversation, title) {
    const isNew = title !== conversation.title;
    this.change([conversation], isNew ? { title, isNamed: true } : {});
  }

  folders() {
    return [...new Set(this.store.list().map(({ folder }) => folder).filter(Boolean))].sort();
  }

  /** Keys on a chat of the list; whether this one does something. */
  press(key, conversation) {
    const actions = { m: () => this.move(conversation), delete: () => this.remove([conversation]) };
    actions[key]?.();
    return key in actions;
  }

  async move(conversation) {
    const others = this.folders().filter((name) => name !== conversation.folder).map((name) => [name, { place: `folder ${name}` }]);
    const choices = [...others, ...(conversation.folder ? [["No folder", { place: "none" }]] : [])];
    const answer = await ask({ title: "Move to folder", label: choices.length > 0 ? "Or a new folder" : "New folder", choices, action: "Move" });
    if (answer) this.place(conversation, answer.place ?? `folder ${answer}`);
  }

  /** `place`: "pinned", "none", "new", or "folder NAME". */
  async place(conversation, place) {
    if (!conversation) return;
    if (place === "new") return this.move(conversation);
    const { isPinned, folder } = conversation;
    const name = place.startsWith("folder ") ? place.slice("folder ".length) : null;
    const fields = place === "pinned" ? { isPinned: true, folder } : { isPinned: false, folder: name };
    if (fields.isPinned === isPinned && fields.folder === folder) return;
    remember("folded", recall("folded", []).filter((folded) => folded !== name)); // what was moved is seen
    this.change([conversation], fields);
    const words = { pinned: "Pinned", none: "Moved out" }[place] ?? `Moved to ${name}:`;
    this.toast.show(`${words} “${conversation.title}”.`, "Undo", () => this.change([conversation], { isPinned, folder }));
  }

  async renameFolder(folder, members) {
    const name = await ask({ title: "Rename folder", label: "Name", value: folder, action: "Rename" });
    if (name) this.change(members, { folder: name });
  }

  async remove(conversations) {
    for (const conversation of conversations) {
      await this.store.load(conversation);
      this.onRemove(conversation);
    }
    const wasOpen = conversations.includes(this.current) && this.current;
    for (const conversation of conversations) this.store.remove(conversation);
    this.found = this.found?.filter(({ conversation }) => !conversations.includes(conversation)) ?? null;
    if (wasOpen) await this.openNext();
    else this.refresh();
    const what = conversations.length === 1 ? `“${conversations[0].title}”` : `${conversations.length} chats`;
    this.toast.show(`Deleted ${what}.`, "Undo", () => this.restore(conversations, wasOpen));
  }

  restore(conversations, wasOpen) {
    for (const conversation of conversations) this.store.restore(conversation);
    if (wasOpen) this.open(wasOpen);
    else this.refresh();
  }

  // files

  async exportMarkdown(conversation) {
    download(`${conversation.title}.md`, "text/markdown", toMarkdown(await this.store.load(conversation)));
  }

  async exportJson(conversations, name) {
    for (const conversation of conversations) await this.store.load(conversation);
    download(`${name}.json`, "application/json", toJson(conversations));
  }

  async importFiles(files) {
    this.file.value = "";
    const taken = [];
    for (const file of files) {
      try {
        const found = await fromFile(file);
        if (found.length === 0) throw new Error("It has no messages.");
        for (const conversation of found) taken.push(await this.take(conversation));
      } catch (error) {
        return this.toast.show(`${file.name} was not imported. ${error.message}`);
      }
    }
    await this.store.flush();
    if (taken.length === 1 || this.current.messages.length === 0) await this.open(taken[0]);
    else this.refresh();
    this.toast.show(taken.length === 1 ? "1 chat is imported." : `${taken.length} chats are imported.`);
  }

  /** A conversation that is here already gets the messages that it lacks. */
  async take({ messages, ...fields }) {
    const known = this.store.get(fields.id);
    const conversation = known ? await this.store.load(known) : Object.assign(this.store.create(fields.options, fields), { chosen: fields.chosen });
    const missing = messages.filter(({ id }) => !conversation.nodes.has(id));
    for (const message of missing) message.conversation = conversation.id;
    plant(conversation, [...conversation.nodes.values(), ...missing]);
    for (const message of missing) this.store.save(conversation, message);
    return conversation;
  }
}
