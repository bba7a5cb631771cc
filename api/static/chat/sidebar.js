// The list of conversations.

import { isRunning } from "./answer.js";
import { byId, h, icon } from "./dom.js";

export class Sidebar {
  /** `onOpen(id)`, `onNew()`, `onRemove(conversation)`. */
  constructor({ onOpen, onNew, onRemove }) {
    Object.assign(this, { onOpen, onRemove });
    this.element = byId("sidebar");
    this.list = byId("conversations");
    this.opener = byId("open-sidebar");
    byId("new-chat").addEventListener("click", () => {
      this.toggle(false);
      onNew();
    });
    this.opener.addEventListener("click", () => this.toggle());
    byId("shade").addEventListener("click", () => this.toggle(false));
    this.element.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.element.classList.contains("open")) return;
      event.stopPropagation();
      this.toggle(false);
    });
  }

  show(conversations, current) {
    this.list.replaceChildren(...conversations.map((conversation) => this.row(conversation, conversation === current)));
  }

  row(conversation, isCurrent) {
    const { id, title, messages } = conversation;
    const running = messages.some(isRunning);
    const open = () => {
      this.toggle(false);
      this.onOpen(id);
    };
    const mark = running ? h("span", { class: "dot", role: "img", "aria-label": "answering" }) : null;
    const current = isCurrent ? "true" : null;
    const label = h("span", { class: "label" }, title);
    const name = h("button", { type: "button", class: "title", title, "aria-current": current, onclick: open }, label, mark);
    const remove = () => this.onRemove(conversation);
    const bin = h("button", { type: "button", class: "quiet", "aria-label": `Delete ${title}`, onclick: remove }, icon("bin"));
    return h("li", {}, name, bin);
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
