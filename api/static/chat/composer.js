// The message box. Enter sends (on a touch screen it adds a line), Shift+Enter adds a line, Esc stops the answer.

export class Composer {
  constructor({ form, area, sendButton, stopButton, onSend, onStop }) {
    Object.assign(this, { form, area, sendButton, stopButton, onSend, onStop });
    this.hasKeyboard = !matchMedia("(pointer: coarse)").matches;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    area.addEventListener("keydown", (event) => this.press(event));
    area.addEventListener("input", () => this.fit());
    stopButton.addEventListener("click", () => onStop());
  }

  press(event) {
    if (event.key !== "Enter" || event.isComposing || event.shiftKey) return; // an IME ends a word with Enter
    if (!this.hasKeyboard && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.send();
  }

  send() {
    const text = this.area.value;
    if (!text.trim() || this.isRunning) return;
    this.area.value = "";
    this.fit();
    this.onSend(text);
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
    if (focused === this.sendButton || focused === this.stopButton) this.area.focus();
  }
}
