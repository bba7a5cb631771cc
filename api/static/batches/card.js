// One batch: its status, bar, figures, what can be done with it, and why it failed.

import { duration, grouped, linesPerSecond, moment, percent } from "../board/words.js";
import { h } from "../chat/dom.js";

const MAX_ERRORS = 5;

export class BatchCard {
  /** `onCancel(batch)`, `onDelete(batch)` and `onDownload(file)` are called for its buttons. */
  constructor(batch, { onCancel, onDelete, onDownload }) {
    Object.assign(this, { onCancel, onDelete, onDownload, batch });
    this.title = h("h3", {}, batch.title || batch.id);
    this.state = h("span", { class: "state" });
    this.bar = h("progress", { "aria-label": `Progress of ${batch.id}` });
    this.figures = h("p", { class: "figures" });
    this.waits = h("p", { class: "waits" });
    this.errors = h("ul", { class: "error" });
    this.actions = h("p", { class: "row" });
    this.element = h(
      "li",
      { class: "batch" },
      h("div", { class: "head" }, this.title, this.state, h("code", { class: "id note" }, batch.id)),
      this.bar,
      this.figures,
      this.waits,
      this.errors,
      this.actions,
    );
  }

  /** `absence`: why its model serves nothing now, if so. */
  update(batch, name, absence) {
    this.batch = batch;
    this.title.textContent = [name, batch.title].filter(Boolean).join(" · ") || batch.id;
    this.state.textContent = batch.status.replace("_", " ");
    this.state.dataset.state = batch.status;
    this.bar.hidden = !batch.isOpen;
    if (batch.total) this.bar.value = batch.done / batch.total;
    else this.bar.removeAttribute("value"); // it is being read
    this.figures.textContent = figures(batch);
    const model = absence && batch.isOpen ? `The model ${batch.model} ${absence}.` : "";
    const why = [batch.waitsFor, model].filter(Boolean).join(" ");
    this.waits.textContent = why && `Waiting. ${why}`;
    this.waits.hidden = !why;
    const more = batch.errors.length - MAX_ERRORS;
    this.errors.hidden = batch.errors.length === 0;
    this.errors.replaceChildren(
      ...batch.errors.slice(0, MAX_ERRORS).map((error) => h("li", {}, fault(error))),
      more > 0 ? h("li", {}, `and ${grouped(more)} more`) : "",
    );
    this.updateActions();
  }

  /** Buttons are made anew only when there are others, so that they keep their focus. */
  updateActions() {
    const { canCancel, isOpen, files, id } = this.batch;
    const wanted = [canCancel, isOpen, ...files.map(({ path }) => path)].join(" ");
    if (wanted === this.shown) return;
    this.shown = wanted;
    const button = (label, action) =>
      h("button", { type: "button", "aria-label": `${label}: ${id}`, onclick: ({ target }) => action(target) }, label);
    this.actions.replaceChildren(
      ...files.map((file) => button(file.name, (target) => this.onDownload(file, target))),
      canCancel ? button("Cancel", (target) => this.onCancel(this.batch, target)) : "",
      isOpen ? "" : button("Delete", (target) => this.onDelete(this.batch, target)),
    );
    this.actions.hidden = this.actions.childElementCount === 0;
  }
}

function figures({ isOpen, total, done, failed, rate, eta, created, expires, ended }) {
  const now = Date.now() / 1000;
  const parts = [total ? `${grouped(done)} of ${grouped(total)} lines` : isOpen ? "being read" : "no lines"];
  if (total && isOpen) parts[0] += ` (${percent(done / total)})`;
  if (failed) parts.push(`${grouped(failed)} failed`);
  if (rate !== null) parts.push(`${linesPerSecond(rate)} lines/s`);
  if (isOpen && eta !== null) parts.push(`ends in about ${duration(eta - now)}`);
  if (isOpen) parts.push(`ends by ${moment(expires)}`);
  else parts.push(`began ${moment(created)}, took ${duration(ended - created)}`);
  return parts.join(" · ");
}

const fault = ({ line, message, code }) => `${line ? `Line ${line}: ` : ""}${message ?? code}`;
