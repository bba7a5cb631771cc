// The messages of the open conversation, drawn at most once a frame. Scrolls along while the reader is at the bottom.

import { copyText, h, icon } from "./dom.js";
import { MessageView } from "./message_view.js";

const NEAR_PX = 80;

export class Transcript {
  constructor({ scroller, list, jump, actions }) {
    Object.assign(this, { scroller, list, jump, actions });
    this.views = new Map(); // message id -> MessageView
    this.changed = new Set();
    this.isFollowing = true;
    scroller.addEventListener("scroll", () => this.noticeScroll(), { passive: true });
    jump.addEventListener("click", () => this.toEnd());
    list.addEventListener("click", (event) => this.copy(event.target.closest("[data-copy]")));
  }

  show(conversation) {
    this.views.clear();
    this.changed.clear();
    this.list.replaceChildren();
    for (const message of conversation.messages) this.add(message);
    this.toEnd();
  }

  add(message) {
    const view = new MessageView(message, this.actions);
    this.views.set(message.id, view);
    this.list.append(view.element);
    if (!view.isDrawn) this.update(message);
    this.toEnd();
  }

  /** Schedules a redraw of a message that is on the page. */
  update(message) {
    if (!this.views.has(message.id)) return;
    if (this.changed.size === 0) requestAnimationFrame(() => this.draw());
    this.changed.add(message.id);
  }

  draw() {
    for (const id of this.changed) {
      const view = this.views.get(id);
      view?.update();
      if (view?.isDrawn ?? true) this.changed.delete(id);
    }
    if (this.changed.size > 0) requestAnimationFrame(() => this.draw());
    if (this.isFollowing) this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  noticeScroll() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroller;
    this.isFollowing = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    this.jump.hidden = this.isFollowing;
  }

  toEnd() {
    this.isFollowing = true;
    this.jump.hidden = true;
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  async copy(button) {
    if (!button) return;
    const view = this.views.get(button.closest("article").dataset.id);
    const code = button.closest(".code")?.querySelector("pre");
    await copyText(code ? code.textContent : view.message.content);
    button.replaceChildren(icon("check"));
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  }
}

/** The suggestions that an empty conversation shows. */
export function welcome(suggestions, onPick) {
  const buttons = suggestions.map((text) => h("button", { type: "button", onclick: () => onPick(text) }, text));
  return h(
    "div",
    { class: "welcome" },
    h("h2", {}, "What shall we talk about?"),
    h("p", {}, "Every answer is a job: reload the page or lose the connection, and it goes on."),
    h("div", { class: "suggestions" }, ...buttons),
  );
}
