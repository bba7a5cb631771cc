// The settings panel: key, system prompt, sampling, tools. Each change is stored at once.

import { byId } from "./dom.js";
import { apiKey, setApiKey } from "./key.js";

const OPTIONS = ["system", "temperature", "top_p", "max_tokens", "seed", "stop", "tools"];

export class Panel {
  /** `onKey()`: the key has changed. `onOptions(name, value)`: an option of the conversation has changed. */
  constructor({ onKey, onOptions }) {
    this.element = byId("panel");
    this.opener = byId("open-panel");
    this.opener.addEventListener("click", () => this.toggle());
    byId("close-panel").addEventListener("click", () => this.toggle(false));
    this.element.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.toggle(false);
    });
    this.key = byId("key");
    this.key.value = apiKey();
    this.key.addEventListener("change", () => {
      setApiKey(this.key.value);
      onKey();
    });
    for (const name of OPTIONS) this.wireOption(byId(`option-${name}`), name, onOptions);
  }

  wireOption(field, name, onOptions) {
    field.addEventListener("input", () => {
      if (name === "tools") field.setCustomValidity(complaint(field.value));
      const isValid = field.checkValidity();
      field.setAttribute("aria-invalid", String(!isValid));
      byId(`error-${name}`).textContent = isValid ? "" : field.validationMessage;
      if (isValid) onOptions(name, field.value);
    });
  }

  show(options) {
    for (const name of OPTIONS) {
      const field = byId(`option-${name}`);
      field.value = options[name] ?? "";
      field.removeAttribute("aria-invalid");
      byId(`error-${name}`).textContent = "";
    }
  }

  toggle(open = this.element.hidden) {
    this.element.hidden = !open;
    this.opener.setAttribute("aria-expanded", String(open));
    if (open) this.element.querySelector("input, textarea").focus();
    else this.opener.focus();
  }
}

function complaint(text) {
  if (!text.trim()) return "";
  try {
    return Array.isArray(JSON.parse(text)) ? "" : "The tools must be a JSON list.";
  } catch {
    return "This is not JSON.";
  }
}
