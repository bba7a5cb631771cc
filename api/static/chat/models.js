// The model picker, and the banner shown while there is no model.

import { listModels } from "./api.js";
import { byId, h } from "./dom.js";
import { apiKey } from "./key.js";
import { advice } from "./words.js";

const RETRY_MS = 3000;

export class Models {
  constructor({ onPick, openSettings }) {
    Object.assign(this, { openSettings });
    this.select = byId("model");
    this.banner = byId("banner");
    this.select.addEventListener("change", () => onPick(this.select.value));
  }

  /** Polls until the server has models. A refused key ends the polling. */
  async load(wanted) {
    clearTimeout(this.timer);
    try {
      this.fill(await listModels(apiKey()), wanted);
      this.banner.hidden = true;
    } catch (error) {
      this.complain(error);
      if (error.isPassing) this.timer = setTimeout(() => this.load(wanted), error.retryAfter * 1000 || RETRY_MS);
    }
  }

  fill(models, wanted) {
    this.select.replaceChildren(...models.map(({ id, root }) => h("option", { value: id, title: root }, id)));
    this.pick(wanted);
  }

  /** Selects a model; the first one if it is no longer served. */
  pick(wanted) {
    const known = [...this.select.options].map((option) => option.value);
    this.select.value = known.includes(wanted) ? wanted : (known[0] ?? "");
  }

  get picked() {
    return this.select.value;
  }

  complain(error) {
    const settings = h("button", { type: "button", onclick: this.openSettings }, "Settings");
    const text = `${error.message} ${error.isPassing ? "Trying again…" : advice(error)}`;
    if (this.banner.hidden || this.banner.firstChild?.textContent !== text) {
      this.banner.replaceChildren(h("span", {}, text), error.isPassing ? null : settings);
      if (error.isPassing) this.banner.lastChild.remove();
    }
    this.banner.hidden = false;
  }
}
