// The settings panel: key, presets, and the options of the conversation. Each change is stored at once.

import { byId, h } from "./dom.js";
import { apiKey, setApiKey } from "./key.js";
import { complaint, OPTIONS, setOptions } from "./options.js";
import { Presets } from "./presets.js";

/** The sections: a title, or none, and the options in it. Those with a title are folded. */
const SECTIONS = [
  ["", ["system", "temperature", "top_p", "max_tokens", "seed", "stop", "reasoning_effort", "service_tier", "overflow"]],
  [
    "More sampling",
    ["top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "min_tokens", "logit_bias"],
  ],
  ["Answer as JSON", ["schema"]],
  ["Tools", ["tools"]],
];

export class Panel {
  /** `onKey()`: the key has changed. `onOptions(name, value)`: an option of the conversation has changed. */
  constructor({ onKey, onOptions }) {
    this.onOptions = onOptions;
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
    this.fields = new Map(); // an option's name -> {option, field, told}
    this.sections = SECTIONS.map(([title, names]) => this.section(title, names));
    this.presets = new Presets({ onPick: (values) => this.take(values) });
    byId("options").append(this.presets.element, ...this.sections.map(({ element }) => element));
  }

  section(title, names) {
    const options = names.map((name) => OPTIONS.find((option) => option.name === name));
    const grid = h("div", { class: "pair" }, ...options.map((option) => this.field(option)));
    if (!title) return { names, element: grid };
    const summary = h("summary", {}, title);
    return { names, title, summary, element: h("details", {}, summary, grid) };
  }

  field(option) {
    const { name, label, note, kind } = option;
    const id = `option-${name}`;
    const field = this.control(option, id);
    const told = h("p", { class: "error", id: `error-${name}` });
    field.addEventListener("input", () => this.change(name));
    this.fields.set(name, { option, field, told });
    const words = [label, note ? h("span", { class: "note" }, ` (${note})`) : null];
    return h("div", { class: kind === "text" ? "wide" : null }, h("label", { for: id }, ...words.filter(Boolean)), field, told);
  }

  control({ name, kind, fallback, choices, min, max, step, rows, isMono }, id) {
    const shared = { id, "aria-describedby": `error-${name}` };
    if (kind === "choice") {
      const choose = (value) => h("option", { value }, value || fallback);
      return h("select", shared, ...["", ...choices].map(choose));
    }
    const typed = { ...shared, placeholder: fallback, autocomplete: "off" };
    if (kind === "text") return h("textarea", { ...typed, rows, class: isMono ? "mono" : null, spellcheck: isMono ? "false" : null });
    return h("input", { ...typed, type: "number", min, max, step, inputmode: step === 1 ? "numeric" : "decimal" });
  }

  change(name) {
    const { option, field } = this.fields.get(name);
    field.setCustomValidity(complaint(option, field.value));
    this.tell(name);
    if (!field.checkValidity()) return;
    this.onOptions(name, field.value);
    this.options[name] = field.value;
    this.summarize();
    this.presets.show(this.options);
  }

  /** Under the field: what is wrong with it, or what was read from it. */
  tell(name) {
    const { option, field, told } = this.fields.get(name);
    const isValid = field.checkValidity();
    field.setAttribute("aria-invalid", String(!isValid));
    told.classList.toggle("note", isValid);
    told.classList.toggle("error", !isValid);
    if (!isValid) told.textContent = `${field.validationMessage} Not used until it is corrected.`;
    else told.textContent = field.value.trim() ? (option.tell?.(field.value) ?? "") : "";
  }

  /** A folded section says how many of its options are set. */
  summarize() {
    const set = setOptions(this.options);
    for (const { names, title, summary } of this.sections.filter(({ summary }) => summary)) {
      const count = names.filter((name) => set.includes(name)).length;
      summary.textContent = count ? `${title} · ${count} set` : title;
    }
  }

  show(options) {
    this.options = { ...options };
    for (const [name, { field }] of this.fields) {
      field.value = options[name] ?? "";
      field.setCustomValidity("");
      this.tell(name);
    }
    this.summarize();
    this.presets.show(this.options);
  }

  /** All options of a preset at once. */
  take(values) {
    for (const { name } of OPTIONS) {
      if ((this.options[name] ?? "") !== (values[name] ?? "")) this.onOptions(name, values[name] ?? "");
    }
    this.show({ ...this.options, ...Object.fromEntries(OPTIONS.map(({ name }) => [name, values[name] ?? ""])) });
  }

  toggle(open = this.element.hidden) {
    this.element.hidden = !open;
    this.opener.setAttribute("aria-expanded", String(open));
    const hasTouch = matchMedia("(pointer: coarse)").matches; // a focused field would open its keyboard
    if (open) this.element.querySelector(hasTouch ? "#close-panel" : "input").focus();
    else this.opener.focus();
  }
}
