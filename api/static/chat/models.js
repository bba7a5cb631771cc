// The model picker with each model's status, and the banner shown while there is no model.

import { listModels } from "./api.js";
import { byId, h } from "./dom.js";
import { apiKey } from "./key.js";
import { nearness } from "./model_words.js";
import { grouped } from "./numbers.js";
import { advice } from "./words.js";

const RETRY_MS = 3000;
const FRESH_MS = 3000;
const MAX_WORDS = 90; // characters of a status beside a name; its whole text is the tooltip

const canChat = ({ task }) => (task ?? "generate") === "generate";

/** Adapters follow the model that they belong to. */
function inOrder(models) {
  const bases = models.filter(({ parent }) => !parent);
  const found = bases.flatMap((base) => [base, ...models.filter(({ parent }) => parent === base.id)]);
  return [...found, ...models.filter((model) => !found.includes(model))];
}

export class Models {
  constructor({ onPick, onList, openSettings }) {
    Object.assign(this, { onList, openSettings });
    this.facts = byId("model-facts");
    this.select = byId("model");
    this.banner = byId("banner");
    this.select.addEventListener("change", () => {
      onPick(this.select.value);
      this.tell();
    });
    document.addEventListener("visibilitychange", () => this.isStale && !document.hidden && this.refresh());
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
    const offered = inOrder(models.filter(canChat));
    this.offered = offered;
    const known = [...this.select.options].map(({ value }) => value);
    if (known.join("\n") !== offered.map(({ id }) => id).join("\n")) {
      this.select.replaceChildren(...offered.map(({ id }) => h("option", { value: id })));
    }
    this.pick(wanted);
    this.label(offered);
    this.onList();
    if (models.some(({ status }) => status)) this.refreshLater();
  }

  /** Says where each model is, unless all are loaded. */
  label(offered) {
    const isPlain = offered.every(({ status }) => (status?.state ?? "loaded") === "loaded");
    offered.forEach((model, index) => {
      const option = this.select.options[index];
      const words = isPlain || model.status?.state === "loaded" ? "" : nearness(model);
      const short = words.length > MAX_WORDS ? `${words.slice(0, MAX_WORDS)}…` : words;
      const text = `${model.parent ? "↳ " : ""}${model.id}${short && ` · ${short}`}`;
      if (option.textContent !== text) option.textContent = text; // an open list does not flicker
      option.title = [model.root, words].filter(Boolean).join(" · ");
    });
    this.tell();
  }

  /** Beside the list: the weights that the picked model stands for, its context, and where it is. */
  tell() {
    const { root, id, max_model_len: context, ...rest } = this.offered?.find((model) => model.id === this.picked) ?? {};
    const used = this.used ? `${grouped(this.used)} of ` : "";
    const length = context ? `${used}${grouped(context)} tokens of context` : "";
    this.facts.textContent = [root === id ? "" : root, length, nearness(rest)].filter(Boolean).join(" · ");
    this.select.title = this.select.selectedOptions[0]?.title ?? "";
  }

  /** What the conversation takes of the context, as its last answer counted it. */
  count(messages) {
    this.used = messages.findLast(({ usage }) => usage)?.usage.total_tokens ?? 0;
    this.tell();
  }

  refreshLater() {
    this.isStale = false;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.refresh(), FRESH_MS);
  }

  /** Not while the page is hidden. A server that is away for a moment is no reason for a banner. */
  async refresh() {
    clearTimeout(this.timer);
    this.isStale = document.hidden;
    if (this.isStale) return;
    const key = apiKey();
    const models = await listModels(key).catch(() => null);
    if (key !== apiKey()) return; // the new key's list is on its way
    if (models) this.fill(models, this.picked);
    else this.refreshLater();
  }

  /** Selects a model; the first one if it is no longer served. */
  pick(wanted) {
    const known = [...this.select.options].map((option) => option.value);
    this.select.value = known.includes(wanted) ? wanted : (known[0] ?? "");
    this.tell();
  }

  get picked() {
    return this.select.value;
  }

  /** Why the picked model takes no images; empty if it does, or if the server does not say. */
  get noImages() {
    const inputs = this.offered?.find(({ id }) => id === this.picked)?.architecture?.input_modalities;
    return !inputs || inputs.includes("image") ? "" : `${this.picked} reads text only; pick a model that reads images.`;
  }

  /** Tokens that the picked model holds, if the server says. */
  get context() {
    return this.offered?.find(({ id }) => id === this.picked)?.max_model_len ?? null;
  }

  /** The smallest other model that holds more than so many tokens, or null. */
  larger(tokens, hasImages) {
    const reads = ({ architecture }) => !hasImages || architecture?.input_modalities?.includes("image");
    const found = (this.offered ?? []).filter((model) => model.id !== this.picked && model.max_model_len > tokens && reads(model));
    return found.sort((one, other) => one.max_model_len - other.max_model_len)[0]?.id ?? null;
  }

  complain(error) {
    const settings = h("button", { type: "button", onclick: this.openSettings }, "Settings");
    const text = `${error.message} ${error.isPassing ? "Trying again…" : advice(error)}`;
    if (this.banner.hidden || this.banner.firstChild?.textContent !== text) {
      this.banner.replaceChildren(h("span", {}, text), error.isPassing ? null : settings);
      if (error.isPassing) this.banner.lastChild.remove();
    }
    this.banner.classList.toggle("passing", Boolean(error.isPassing));
    this.banner.hidden = false;
  }
}
