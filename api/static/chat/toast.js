// One line at the bottom that tells what was done, with a button that takes it back.

import { byId, h, icon } from "./dom.js";

const SHOWN_MS = 20_000;

export class Toast {
  constructor() {
    this.element = byId("toast");
    this.element.addEventListener("focusin", () => clearTimeout(this.timer)); // as long as it is being used
    this.element.addEventListener("pointerenter", () => clearTimeout(this.timer));
    this.element.addEventListener("pointerleave", () => this.hideLater());
  }

  show(text, label, undo) {
    const close = h("button", { type: "button", class: "quiet", "aria-label": "Dismiss", onclick: () => this.hide() }, icon("cross"));
    const back = () => {
      this.hide();
      undo();
    };
    const button = label ? h("button", { type: "button", onclick: back }, label) : null;
    this.element.replaceChildren(h("span", {}, text), ...[button, close].filter(Boolean));
    this.element.hidden = false;
    this.hideLater();
  }

  hideLater() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.hide(), SHOWN_MS);
  }

  hide() {
    clearTimeout(this.timer);
    if (this.element.contains(document.activeElement)) byId("text").focus();
    this.element.hidden = true;
  }
}
