// Named sets of options, of which some come with the page and the others are kept in this browser.

import { h } from "./dom.js";
import { OPTIONS } from "./options.js";
import { recall, remember } from "./recall.js";

const BUILT_IN = {
  "Server's defaults": {},
  Precise: { temperature: "0" },
  Creative: { temperature: "1", min_p: "0.05" },
};
const CUSTOM = "";
const MAX_NAME = 40;

const valuesOf = (options) =>
  Object.fromEntries(OPTIONS.map(({ name }) => [name, options[name] ?? ""]).filter(([, value]) => value !== ""));
const isSame = (one, other) => JSON.stringify(valuesOf(one)) === JSON.stringify(valuesOf(other));

export class Presets {
  /** `onPick(values)`: a preset was chosen. */
  constructor({ onPick }) {
    this.own = recall("presets", {});
    this.select = h("select", { id: "preset", onchange: () => this.pick(onPick) });
    this.saveButton = h("button", { type: "button", onclick: () => this.ask() }, "Save as…");
    this.deleteButton = h("button", { type: "button", onclick: () => this.delete() }, "Delete");
    this.name = h("input", { id: "preset-name", maxlength: MAX_NAME, autocomplete: "off", placeholder: "Name", "aria-label": "Name of the preset" });
    this.name.addEventListener("input", () => this.name.setCustomValidity(""));
    const cancel = h("button", { type: "button", onclick: () => this.close() }, "Cancel");
    const save = (event) => {
      event.preventDefault();
      this.save();
    };
    const keys = (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation(); // the panel stays
      this.close();
    };
    this.form = h(
      "form",
      { class: "preset-form", hidden: true, onsubmit: save, onkeydown: keys },
      this.name,
      h("button", { type: "submit", class: "primary" }, "Save"),
      cancel,
    );
    this.row = h("div", { class: "preset-row" }, this.select, this.saveButton, this.deleteButton);
    this.element = h("div", {}, h("label", { for: "preset" }, "Preset"), this.row, this.form);
  }

  get all() {
    return { ...BUILT_IN, ...this.own };
  }

  /** Selects the preset that the options are, and "Custom" where they are none. */
  show(options) {
    this.options = options;
    const chosen = this.select.value;
    const all = Object.entries(this.all);
    const same = all.filter(([, values]) => isSame(values, options)).map(([name]) => name);
    this.select.replaceChildren(...[CUSTOM, ...all.map(([name]) => name)].map((value) => h("option", { value }, value || "Custom")));
    this.select.value = same.includes(chosen) ? chosen : (same[0] ?? CUSTOM);
    this.saveButton.hidden = this.select.value !== CUSTOM;
    this.deleteButton.hidden = !(this.select.value in this.own);
  }

  pick(onPick) {
    if (this.select.value === CUSTOM) this.show(this.options);
    else onPick(this.all[this.select.value]);
  }

  ask() {
    this.row.hidden = true;
    this.form.hidden = false;
    this.name.value = "";
    this.name.focus();
  }

  close() {
    this.form.hidden = true;
    this.row.hidden = false;
    this.select.focus();
  }

  save() {
    const name = this.name.value.trim();
    this.name.setCustomValidity(complaintOf(name));
    if (!this.name.reportValidity()) return;
    this.own[name] = valuesOf(this.options);
    this.keep();
    this.select.value = name;
    this.close();
  }

  /** The options stay as they are, so that saving them again undoes this. */
  delete() {
    delete this.own[this.select.value];
    this.keep();
    this.select.focus();
  }

  keep() {
    remember("presets", this.own);
    this.show(this.options);
  }
}

function complaintOf(name) {
  if (!name) return "Give the preset a name.";
  return name in BUILT_IN ? "A preset of this name comes with the page: choose another name." : "";
}
