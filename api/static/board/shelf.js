// The models that share one device: its memory, and of each model where it is, what waits for it and how long it stays.

import { orderModel } from "../chat/api.js";
import { byId, h } from "../chat/dom.js";
import { adminKey } from "../chat/key.js";
import { about, keptFor, stays } from "../chat/model_words.js";
import { Rows } from "./rows.js";
import { bytes, duration, grouped, percent } from "./words.js";

const NAMED = 0.03; // the share of a bar that has room for a name

const isLoaded = ({ status }) => status === "loaded";

/** Texts that have not changed stay as they are, so that one can select them. */
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Memory as one bar. A part: {key, name, kind, bytes}; its kind is told by its pattern and in the legend. */
class MemoryBar {
  constructor(name) {
    this.name = name;
    this.figure = h("span", { class: "figure-text" });
    this.bar = h("div", { class: "memory-bar", role: "img" });
    this.element = h("div", { class: "memory-row" }, h("span", { class: "memory-name" }, name), this.figure, this.bar);
    this.parts = new Rows(this.bar, {
      key: (part) => part.key,
      make: ({ kind }) => h("span", { class: `part ${kind}` }),
      update(element, part) {
        element.style.flexGrow = String(part.bytes);
        element.title = `${part.title ?? part.name}: ${bytes(part.bytes)}`;
        put(element, part.isNamed ? part.name : "");
      },
    });
  }

  show(parts, used, capacity) {
    const coming = parts.reduce((sum, { kind, bytes }) => sum + (kind === "coming" ? bytes : 0), 0);
    const free = Math.max(0, capacity - used - coming);
    const other = used + coming - parts.reduce((sum, { bytes }) => sum + bytes, 0);
    const shown = [...parts, { key: " other", name: "other", kind: "other", bytes: other }].filter(
      (part) => part.bytes > capacity / 1000, // too narrow to be seen
    );
    put(this.figure, `${bytes(used)} of ${bytes(capacity)}`);
    const words = shown.map((part) => `${part.title ?? part.name} ${bytes(part.bytes)}`);
    this.bar.setAttribute("aria-label", `${this.name}: ${[...words, `free ${bytes(free)}`].join(", ")}`);
    const all = [...shown, { key: " free", name: "free", kind: "free", bytes: free }];
    this.parts.show(all.map((part) => ({ ...part, isNamed: part.bytes > NAMED * capacity })));
  }
}

function deviceParts({ entries }) {
  return entries.flatMap(({ queue, status, weights_bytes, kv_bytes }) => {
    if (status === "loading") {
      return [{ key: `${queue} weights`, name: queue, title: `${queue}, loading`, kind: "coming", bytes: weights_bytes }];
    }
    if (status !== "loaded") return [];
    return [
      { key: `${queue} weights`, name: queue, title: `${queue}, weights`, kind: "weights", bytes: weights_bytes },
      { key: `${queue} kv`, name: "", title: `${queue}, KV cache`, kind: "kv", bytes: kv_bytes },
    ];
  });
}

const warmParts = ({ entries }) =>
  entries
    .filter(({ status }) => status === "warm")
    .map(({ queue, weights_bytes }) => ({ key: queue, name: queue, kind: "weights", bytes: weights_bytes }));

const legend = (...kinds) =>
  h("p", { class: "legend note", "aria-hidden": "true" }, ...kinds.map(([kind, name]) => h("span", {}, h("i", { class: `part ${kind}` }), name)));

/** What comes next or why nothing does, in one sentence. */
function nextWords({ next, next_in_s, why }) {
  if (!next) return why ? `${why[0].toUpperCase()}${why.slice(1)}.` : "";
  const when = next_in_s === null ? "" : ` in ${about(next_in_s)}`;
  return `Next: ${next}${when}${why ? ` (${why})` : ""}.`;
}

function swapWords({ num_swaps, last_swap }) {
  if (!num_swaps) return "No swap yet.";
  return `${grouped(num_swaps)} swap${num_swaps === 1 ? "" : "s"}${last_swap ? `, the last ${last_swap.replace("->", "→")}` : ""}.`;
}

async function order(button, queue, action) {
  button.disabled = true;
  try {
    await orderModel(queue, action, adminKey());
    byId("announcement").textContent = `${queue}: ${action} is ordered.`;
  } catch (error) {
    byId("announcement").textContent = error.message;
    byId("banner").textContent = error.message;
    byId("banner").hidden = false;
  } finally {
    button.disabled = false;
  }
}

function orderButton(queue) {
  const button = h("button", { type: "button", onclick: () => order(button, queue, button.dataset.action) });
  return button;
}

function setOrder(button, queue, action) {
  button.dataset.action = action;
  put(button, action[0].toUpperCase() + action.slice(1));
  button.setAttribute("aria-label", `${button.textContent} ${queue}`);
}

class ModelRow {
  constructor({ queue }) {
    this.queue = queue;
    this.name = h("span", { class: "name" });
    this.state = h("span", { class: "state" });
    this.bar = h("progress", { max: "1", hidden: true, "aria-label": `Loading ${queue}` });
    this.note = h("span", { class: "status-note" });
    this.memory = h("td", { class: "memory" });
    this.waiting = h("td", { class: "waits" });
    this.stays = h("td", { class: "stays" });
    this.load = orderButton(queue);
    this.pin = orderButton(queue);
    this.element = h(
      "tr",
      {},
      h("th", { scope: "row" }, this.name),
      h("td", { class: "where" }, this.state, " ", this.note, this.bar),
      this.memory,
      this.waiting,
      this.stays,
      h("td", { class: "do" }, this.load, " ", this.pin),
    );
  }

  update(entry, now) {
    const { queue, status, share } = entry;
    put(this.name, queue);
    this.state.dataset.state = status;
    put(this.state, status === "loading" ? `loading ${percent(share)}` : status);
    this.bar.hidden = status !== "loading";
    this.bar.value = share;
    this.note.classList.toggle("error", status === "failed");
    put(this.note, statusNote(entry));
    put(this.memory, memoryWords(entry));
    put(this.waiting, waitingWords(entry));
    put(this.stays, isLoaded(entry) ? stays(entry, now) : keptFor(entry));
    setOrder(this.load, queue, isLoaded(entry) || status === "loading" ? "unload" : "load");
    setOrder(this.pin, queue, entry.is_pinned ? "unpin" : "pin");
  }
}

function statusNote({ status, what, fault, may_retry, eta_s, swap_in_s }) {
  if (status === "loaded") return "";
  if (status === "failed") return `${fault}${may_retry ? " It is tried again." : ""}`;
  const when = eta_s !== null && eta_s !== undefined ? `there in ${about(eta_s)}` : "";
  if (status === "loading") return [what, when].filter(Boolean).join(", ");
  return when || (swap_in_s ? `loads in ${about(swap_in_s)}` : "");
}

function memoryWords(entry) {
  const kv = isLoaded(entry) && entry.kv_bytes ? ` + ${bytes(entry.kv_bytes)} KV` : "";
  return entry.weights_bytes ? bytes(entry.weights_bytes) + kv : "–";
}

function waitingWords({ num_waiting, longest_wait_s, num_swapped_out }) {
  if (!num_waiting) return "–";
  const paused = num_swapped_out ? `, ${grouped(num_swapped_out)} paused` : "";
  return `${grouped(num_waiting)}, longest ${duration(longest_wait_s)}${paused}`;
}

const heads = ["Model", "Status", "Memory", "Waiting", "Stays"];

class ShelfCard {
  constructor() {
    this.device = h("h3", {});
    this.worker = h("span", { class: "note" });
    this.next = h("p", { class: "next" });
    this.swaps = h("p", { class: "note" });
    this.onDevice = new MemoryBar("Device memory");
    this.warm = new MemoryBar("Host memory, warm weights");
    const body = h("tbody", {});
    this.element = h(
      "article",
      { class: "shelf" },
      h("header", {}, this.device, this.worker),
      this.next,
      this.swaps,
      this.onDevice.element,
      this.warm.element,
      legend(["weights", "weights"], ["kv", "KV cache"], ["coming", "loading"], ["free", "free"]),
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, ...heads.map((name) => h("th", { scope: "col" }, name)), h("td"))),
        body,
      ),
    );
    const rows = new WeakMap(); // element -> ModelRow
    this.rows = new Rows(body, {
      key: (entry) => entry.queue,
      make(entry) {
        const row = new ModelRow(entry);
        rows.set(row.element, row);
        return row.element;
      },
      update: (element, entry) => rows.get(element).update(entry, this.now),
    });
  }

  update(shelf, now) {
    this.now = now;
    const most = shelf.max_loaded ? ` · at most ${grouped(shelf.max_loaded)} loaded` : "";
    put(this.device, shelf.device);
    put(this.worker, `worker ${shelf.worker}${most}`);
    put(this.next, nextWords(shelf));
    this.next.hidden = !this.next.textContent;
    put(this.swaps, swapWords(shelf));
    this.onDevice.show(deviceParts(shelf), shelf.used_bytes, shelf.capacity_bytes);
    this.warm.show(warmParts(shelf), shelf.warm_bytes, shelf.warm_capacity_bytes);
    this.warm.element.hidden = !shelf.warm_capacity_bytes && !shelf.warm_bytes;
    this.rows.show(shelf.entries);
  }
}

export class Shelves {
  constructor() {
    const cards = new WeakMap(); // element -> ShelfCard
    this.cards = new Rows(byId("shelves"), {
      key: (shelf) => shelf.worker,
      make() {
        const card = new ShelfCard();
        cards.set(card.element, card);
        return card.element;
      },
      update: (element, shelf) => cards.get(element).update(shelf, this.now),
    });
  }

  /** Hidden where every worker has one model. */
  show(shelves, now) {
    this.now = now;
    const entries = shelves.flatMap((shelf) => shelf.entries);
    byId("models").hidden = entries.length === 0;
    put(byId("num-models"), `${entries.filter(isLoaded).length} of ${entries.length} loaded`);
    this.cards.show(shelves);
  }
}

/** The queues that have a worker, and are not loaded by it. */
export const notLoaded = (shelves) =>
  new Set(shelves.flatMap((shelf) => shelf.entries.filter((entry) => !isLoaded(entry)).map(({ queue }) => queue)));
