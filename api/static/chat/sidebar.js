// The list of conversations: pinned ones, folders, then by age; or what a search found.

import { byId, h } from "./dom.js";
import { wireDrag } from "./drag.js";
import { menuButton } from "./menu.js";
import { recall, remember } from "./recall.js";
import { marked } from "./search.js";

const DAY_MS = 86_400_000;
const PINNED = "Pinned";

export class Sidebar {
  /** `onOpen(id)`, `onNew()`, `onSearch(query)`, `onRename(conversation, title)`, `onPlace(id, place)`, `onKey(key, conversation)`,
   * `onRefresh()`; `menuOf(conversation)`, `menuOfFolder(name)` and `menuOfAll()` give the items of the menus. */
  constructor(actions) {
    this.actions = actions;
    this.element = byId("sidebar");
    this.list = byId("conversations");
    this.opener = byId("open-sidebar");
    this.search = byId("search");
    byId("new-chat").addEventListener("click", () => {
      this.toggle(false);
      actions.onNew();
    });
    byId("new-chat").after(menuButton("All chats", actions.menuOfAll));
    this.search.addEventListener("input", () => actions.onSearch(this.search.value));
    this.opener.addEventListener("click", () => this.toggle());
    byId("shade").addEventListener("click", () => this.toggle(false));
    this.element.addEventListener("keydown", (event) => event.key === "Escape" && this.escape(event));
    this.list.addEventListener("keydown", (event) => this.press(event));
    wireDrag(this.list, { onDrop: (id, place) => actions.onPlace(id, place), onEnd: () => actions.onRefresh() });
  }

  /** Clears the search, else closes the drawer. */
  escape(event) {
    if (this.search.value) this.clearSearch();
    else if (this.element.classList.contains("open")) this.toggle(false);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  clearSearch() {
    this.search.value = "";
    this.actions.onSearch("");
  }

  press(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const titles = [...this.list.querySelectorAll(".title")].filter((title) => title.offsetParent);
    const at = titles.indexOf(event.target);
    if (at < 0 || !step) return;
    event.preventDefault();
    titles[at + step]?.focus();
  }

  /** `isRunning(conversation)`; `found`: what a search found, or null. */
  show(conversations, current, isRunning, found) {
    if (this.list.matches(".dragging, :has(.rename)")) return; // a chat is being moved, or named
    Object.assign(this, { current, isRunning });
    const focus = this.focusedRow();
    const groups = found ? [this.results(found)] : groupsOf(conversations).map((group) => this.group(group));
    const newFolder = h("p", { class: "new-folder", "data-place": "new" }, "New folder…");
    this.list.replaceChildren(...groups, newFolder);
    if (focus) this.focusRow(focus);
  }

  focusedRow() {
    const row = document.activeElement.closest("#conversations [data-id]");
    if (!row) return null;
    const rows = [...this.list.querySelectorAll("[data-id]")];
    return { id: row.dataset.id, part: document.activeElement.className, index: rows.indexOf(row) };
  }

  /** The same row as before the list was drawn again, or the one that took its place. */
  focusRow({ id, part, index }) {
    const rows = [...this.list.querySelectorAll("[data-id]")].filter((row) => row.offsetParent);
    const same = rows.find((row) => row.dataset.id === id);
    const row = same ?? rows[Math.min(index, rows.length - 1)];
    const control = same && part && row.querySelector(`.${part.split(" ")[0]}`);
    (control ?? row?.querySelector("button") ?? byId("new-chat")).focus();
  }

  results(found) {
    const rows = found.map(({ conversation, snippet, words }) => this.row(conversation, snippet, words));
    const count = { 0: "No chat has all these words.", 1: "1 chat" }[found.length] ?? `${found.length} chats`;
    return h("section", {}, h("p", { class: "group-name", role: "status" }, count), h("ul", {}, ...rows));
  }

  group({ name, isFolder, members }) {
    const list = h("ul", { "aria-label": name }, ...members.map((one) => this.row(one)));
    if (!isFolder) return h("section", { "data-place": name === PINNED ? "pinned" : "none" }, h("p", { class: "group-name" }, name), list);
    list.hidden = recall("folded", []).includes(name);
    const fold = ({ currentTarget }) => {
      list.hidden = !list.hidden;
      currentTarget.setAttribute("aria-expanded", String(!list.hidden));
      const others = recall("folded", []).filter((other) => other !== name);
      remember("folded", list.hidden ? [...others, name] : others);
    };
    const label = [h("span", { class: "label" }, name), h("span", { class: "note" }, String(members.length))];
    const title = h("button", { type: "button", class: "fold-title", "aria-expanded": String(!list.hidden), onclick: fold }, ...label);
    const menu = menuButton(`Folder ${name}`, () => this.actions.menuOfFolder(name));
    return h("section", { class: "folder", "data-place": `folder ${name}` }, h("div", { class: "group-head", "data-id": `folder ${name}` }, title, menu), list);
  }

  row(conversation, snippet, words = []) {
    const { id, title } = conversation;
    const open = () => {
      this.toggle(false);
      this.actions.onOpen(id);
    };
    const mark = this.isRunning(conversation) ? h("span", { class: "dot", role: "img", "aria-label": "answering" }) : null;
    const current = conversation === this.current ? "true" : null;
    const text = (value) => marked(value, words).map(([piece, isFound]) => (isFound ? h("mark", {}, piece) : piece));
    const label = h("span", { class: "label" }, ...text(title), snippet ? h("small", {}, ...text(snippet)) : null);
    const press = (event) => this.pressRow(event, conversation);
    const properties = { type: "button", class: "title", title, "aria-current": current, onclick: open, onkeydown: press };
    const menu = menuButton(`Actions for ${title}`, () => this.actions.menuOf(conversation));
    return h("li", { "data-id": id, draggable: "true" }, h("button", properties, label, mark), menu);
  }

  pressRow(event, conversation) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "F2") this.rename(conversation);
    else if (!this.actions.onKey(event.key.toLowerCase(), conversation)) return;
    event.preventDefault();
  }

  rename(conversation) {
    const row = this.list.querySelector(`li[data-id="${CSS.escape(conversation.id)}"]`);
    const field = h("input", { class: "rename", value: conversation.title, "aria-label": "Name of the chat", maxlength: "200" });
    let isOver = false;
    const end = (isKept, hadFocus = true) => {
      if (isOver) return; // the field loses its focus when it goes
      isOver = true;
      const title = field.value.trim();
      field.remove();
      this.actions.onRename(conversation, isKept && title ? title : conversation.title);
      if (hadFocus) this.focusRow({ id: conversation.id, part: "title" });
    };
    field.addEventListener("blur", () => end(true, false));
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      event.stopPropagation();
      end(event.key === "Enter");
    });
    row.querySelector(".title").replaceWith(field);
    field.select();
  }

  /** Opens or closes the list, which is a drawer on narrow screens and always visible on wide ones. */
  toggle(open = !this.element.classList.contains("open")) {
    if (open === this.element.classList.contains("open")) return;
    this.element.classList.toggle("open", open);
    byId("shade").hidden = !open;
    this.opener.setAttribute("aria-expanded", String(open));
    (open ? byId("new-chat") : this.opener).focus();
  }
}

function groupsOf(conversations) {
  const pinned = conversations.filter(({ isPinned }) => isPinned);
  const others = conversations.filter(({ isPinned }) => !isPinned);
  const names = [...new Set(others.map(({ folder }) => folder).filter(Boolean))].sort((one, other) => one.localeCompare(other));
  const folders = names.map((name) => ({ name, isFolder: true, members: others.filter(({ folder }) => folder === name) }));
  const groups = [{ name: PINNED, members: pinned }, ...folders];
  for (const conversation of others.filter(({ folder }) => !folder)) {
    const name = age(conversation.updated);
    if (groups.at(-1).name !== name || groups.at(-1).isFolder) groups.push({ name, members: [] });
    groups.at(-1).members.push(conversation);
  }
  return groups.filter(({ members }) => members.length > 0);
}

function age(time) {
  const days = Math.round((new Date().setHours(0, 0, 0, 0) - new Date(time).setHours(0, 0, 0, 0)) / DAY_MS);
  if (days <= 1) return days < 1 ? "Today" : "Yesterday";
  if (days <= 30) return days <= 7 ? "The last 7 days" : "The last 30 days";
  return new Date(time).toLocaleDateString("en", { month: "long", year: "numeric" });
}
