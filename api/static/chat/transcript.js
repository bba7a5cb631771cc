// The messages of the open conversation, drawn at most once a frame. Scrolls along while the reader is at the bottom.

import { byId, copyText, h, icon } from "./dom.js";
import { MessageView } from "./message_view.js";

const NEAR_PX = 80;

export class Transcript {
  constructor({ scroller, list, jump, actions }) {
    Object.assign(this, { scroller, list, jump, actions });
    this.views = new Map(); // message id -> MessageView
    this.changed = new Set();
    this.isFollowing = true;
    this.top = 0;
    scroller.addEventListener("scroll", () => this.noticeScroll(), { passive: true });
    const atEnd = new ResizeObserver(() => this.isFollowing && this.toEnd());
    for (const element of [scroller, list]) atEnd.observe(element); // formulas and code grow after they were drawn, too
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
    this.append(message);
    this.toEnd();
  }

  /** At the end, or before this element. */
  append(message, next = null) {
    const view = new MessageView(message, this.actions);
    this.views.set(message.id, view);
    this.list.insertBefore(view.element, next);
    if (!view.isDrawn) this.update(message);
    return view;
  }

  /** After a change of the path: messages that are shown already stay as they are. The place does not move. */
  showAgain({ messages }) {
    const hadFocus = this.list.contains(document.activeElement);
    const ids = new Set(messages.map(({ id }) => id));
    for (const id of [...this.views.keys()]) if (!ids.has(id)) this.remove(id);
    if (messages.length > 0) this.list.querySelector(".welcome")?.remove();
    messages.forEach((message, index) => this.views.has(message.id) || this.append(message, this.list.children[index]));
    if (this.isFollowing) this.toEnd();
    else this.noticeScroll();
    if (hadFocus && !this.list.contains(document.activeElement)) this.homeOfFocus().focus();
  }

  /** After another tab or an import has changed the conversation. */
  follow(conversation) {
    this.showAgain(conversation);
    for (const message of conversation.messages) {
      this.views.get(message.id).updateVariants();
      this.update(message);
    }
  }

  /** On a touch screen the box would open the keyboard. */
  homeOfFocus() {
    return matchMedia("(pointer: coarse)").matches ? this.scroller : byId("text");
  }

  remove(id) {
    this.views.get(id).element.remove();
    this.views.delete(id);
  }

  /** Shows another variant at its place; the focus stays on the arrow that chose it. */
  showFrom(conversation, message) {
    const pressed = document.activeElement.getAttribute("aria-label");
    this.isFollowing = false;
    this.showAgain(conversation);
    const arrows = [...this.views.get(message.id).element.querySelectorAll(".variants button")];
    const same = arrows.find((arrow) => arrow.getAttribute("aria-label") === pressed);
    (same?.disabled ? arrows.find((arrow) => !arrow.disabled) : same)?.focus();
    this.noticeScroll();
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
    const isUpward = scrollTop < this.top; // however little: a turn of the wheel begins slowly
    this.top = scrollTop;
    this.isFollowing = scrollHeight - scrollTop - clientHeight < (isUpward ? 2 : NEAR_PX);
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
