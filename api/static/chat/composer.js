// The message box. Enter sends (on a touch screen it adds a line), Shift+Enter adds a line, Esc stops the answer.
// A message that cannot be sent yet, because a file is being read or no model is there, is sent as soon as it can.

import { Tray } from "./tray.js";

/** Enter, but not where an IME ends a word with it, or a touch screen has no other way to begin a line. */
export function isSend({ key, isComposing, shiftKey, ctrlKey, metaKey }) {
  if (key !== "Enter" || isComposing || shiftKey) return false;
  return ctrlKey || metaKey || !matchMedia("(pointer: coarse)").matches;
}

export class Composer {
  /** `onSend(text, attachments)`. `onType(text)`: what is in the box has changed. `held()`: attachments of the conversation. `noImages()`: why the picked model takes no
   * images, or "". `waitsFor()`: what is missing for sending, or "". `mayBeSent()`: it fits the model's context. `onChange()`: what
   * would be sent may have changed. */
  constructor({ form, area, note, sendButton, stopButton, onSend, onType, onStop, held, noImages, waitsFor, mayBeSent, onChange }) {
    Object.assign(this, { form, area, note, sendButton, stopButton, onSend, onType, waitsFor, mayBeSent, onChange });
    this.isWanted = false;
    this.tray = new Tray({ held, noImages, onChange: () => this.refresh() });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    area.addEventListener("keydown", (event) => this.press(event));
    area.addEventListener("input", () => {
      this.isWanted = false;
      this.fit();
      this.refresh();
      onType(area.value);
    });
    stopButton.addEventListener("click", () => onStop());
  }

  press(event) {
    if (!isSend(event)) return;
    event.preventDefault();
    this.send();
  }

  /** A suggestion, as if it had been typed. */
  sendText(text) {
    this.area.value = text;
    this.send();
  }

  /** `isForced`: whether it fits or not. */
  send(isForced = false) {
    if (this.isEmpty) return;
    this.isWanted = true;
    this.isForced = isForced;
    this.refresh();
  }

  get isEmpty() {
    return !this.area.value.trim() && this.tray.files.length === 0;
  }

  get missing() {
    if (this.isRunning) return "the answer has ended";
    if (this.tray.isReading) return "the files are read";
    return this.waitsFor() || (this.tray.isRefused ? "a model that reads images is picked, or the images are removed" : "");
  }

  /** Sends what waited for something that is there now; says what is missing otherwise. */
  refresh() {
    this.tray.label();
    this.onChange();
    if (this.isWanted && !this.missing) {
      if (this.isForced || this.mayBeSent()) return this.sendNow();
      this.isWanted = false;
    }
    const words = this.isWanted ? `Sent as soon as ${this.missing}.` : "";
    if (this.note.textContent !== words) this.note.textContent = words;
    this.sendButton.setAttribute("aria-disabled", String(this.isEmpty));
  }

  /** The message in the box. */
  get draft() {
    return { role: "user", content: this.area.value, attachments: this.tray.files };
  }

  sendNow() {
    const { content, attachments } = this.take();
    this.onSend(content, attachments);
  }

  /** The message, which is no longer in the box afterwards. */
  take() {
    const content = this.area.value;
    this.isWanted = false;
    this.area.value = "";
    this.fit();
    this.onType("");
    return { content, attachments: this.tray.take() };
  }

  /** The box of another chat: `text` was typed there before. */
  show(conversation, text) {
    this.isWanted = false;
    this.area.value = text;
    this.fit();
    this.tray.show(conversation);
    this.refresh();
  }

  fit() {
    this.area.style.height = "auto";
    this.area.style.height = `${Math.min(this.area.scrollHeight, 240)}px`;
  }

  /** Shows Stop in place of Send while an answer runs; a focus on either moves to the box. */
  setRunning(isRunning) {
    const focused = document.activeElement;
    this.isRunning = isRunning;
    this.sendButton.hidden = isRunning;
    this.stopButton.hidden = !isRunning;
    this.refresh();
    if (focused === this.sendButton || focused === this.stopButton) this.area.focus();
  }
}
