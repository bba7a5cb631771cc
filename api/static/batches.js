// The page of batches: begins them from a file, shows how far they are, saves their results.

import { absentModels, begin, cancelBatch, deleteBatch, download, fileName, listBatches } from "./batches/api.js";
import { BatchCard } from "./batches/card.js";
import { FileField } from "./batches/file_field.js";
import { Rows } from "./board/rows.js";
import { byId } from "./chat/dom.js";
import { apiKey, setApiKey } from "./chat/key.js";
import { wireTheme } from "./chat/theme.js";

const BUSY_MS = 2000; // between two looks while a batch is open
const IDLE_MS = 15_000;

let batches = []; // newest first
let older = []; // pages that were asked for; they are read once
let last = ""; // where the next page begins
let timer;
const states = new Map(); // id -> status, to announce a change
const names = new Map(); // file id -> its name
let absent = new Map(); // model -> why it serves nothing now
const cards = new WeakMap(); // element -> BatchCard

const rows = new Rows(byId("batches"), {
  key: ({ id }) => id,
  make(batch) {
    const card = new BatchCard(batch, { onCancel: cancel, onDelete: remove, onDownload: save });
    cards.set(card.element, card);
    return card.element;
  },
  update: (element, batch) => cards.get(element).update(batch, names.get(batch.input), absent.get(batch.model)),
});

const announce = (text) => (byId("announcement").textContent = text);

function complain(error) {
  byId("banner").hidden = !error;
  byId("banner").textContent = error?.message ?? "";
}

function show() {
  const all = [...batches, ...older.filter(({ id }) => !batches.some((one) => one.id === id))];
  rows.show(all);
  byId("no-batches").hidden = all.length > 0;
}

/** Reads the newest batches, and again after a while. */
async function refresh() {
  clearTimeout(timer);
  try {
    const page = await listBatches(apiKey());
    batches = page.batches;
    absent = batches.some(({ waitsFor }) => waitsFor) ? await absentModels(apiKey()) : new Map();
    if (older.length === 0) {
      last = page.last;
      byId("more").hidden = !page.hasMore;
    }
    byId("key-form").hidden = true;
    if (byId("banner").dataset.from === "list") complain(null);
    tellChanges();
    show();
    await nameFiles();
  } catch (error) {
    complain(error);
    byId("banner").dataset.from = "list";
    if (error.status === 401) return askForKey();
  }
  clearTimeout(timer);
  timer = setTimeout(() => (document.hidden ? (timer = null) : refresh()), batches.some(({ isOpen }) => isOpen) ? BUSY_MS : IDLE_MS);
}

function askForKey() {
  byId("key-form").hidden = false;
  byId("key").focus();
}

function tellChanges() {
  for (const { id, status } of batches) {
    if (states.has(id) && states.get(id) !== status) announce(`${id}: ${status.replace("_", " ")}.`);
    states.set(id, status);
  }
}

async function nameFiles() {
  for (const { input } of [...batches, ...older]) {
    if (!input || names.has(input)) continue;
    names.set(input, await fileName(apiKey(), input).catch(() => "")); // the file may be gone
    show();
  }
}

/** Runs what a button began, with the button disabled. */
async function during(button, text, work) {
  const label = button.textContent;
  button.disabled = true;
  button.textContent = text;
  try {
    await work();
    complain(null);
  } catch (error) {
    complain(error);
    byId("banner").dataset.from = "button";
  } finally {
    button.disabled = false;
    button.textContent = label;
  }
}

const save = (file, button) => during(button, "Saving…", () => download(apiKey(), file));

function cancel(batch, button) {
  if (!confirm(`Cancel ${batch.id}? Lines that are done stay in its results.`)) return;
  during(button, "Cancelling…", async () => {
    await cancelBatch(apiKey(), batch);
    await refresh();
  });
}

function remove(batch, button) {
  const kept = batch.isAnthropics ? "" : " The file of its requests stays.";
  if (!confirm(`Delete ${batch.id} and its results for good?${kept}`)) return;
  const next = button.closest("li").nextElementSibling ?? button.closest("li").previousElementSibling;
  during(button, "Deleting…", async () => {
    await deleteBatch(apiKey(), batch);
    older = older.filter(({ id }) => id !== batch.id);
    last = older.at(-1)?.id ?? last; // where the next page begins may be gone
    announce(`${batch.id} is deleted.`);
    await refresh();
    (next?.querySelector("button") ?? byId("file")).focus();
  });
}

const file = new FileField({
  field: byId("file"),
  area: byId("drop"),
  label: byId("file-name"),
  fault: byId("file-fault"),
  onEndpoint(endpoint) {
    const isKnown = [...byId("endpoint").options].some(({ value }) => value === endpoint);
    if (isKnown) byId("endpoint").value = endpoint;
  },
});

byId("new-batch").addEventListener("submit", (event) => {
  event.preventDefault();
  during(byId("begin"), "Uploading…", async () => {
    const { id } = await begin(apiKey(), file.chosen, byId("endpoint").value, byId("window").value);
    announce(`${id} has begun.`);
    file.clear();
    await refresh();
  });
});

byId("more").addEventListener("click", () =>
  during(byId("more"), "Reading…", async () => {
    const page = await listBatches(apiKey(), last);
    older.push(...page.batches);
    last = page.last;
    byId("more").hidden = !page.hasMore;
    show();
    await nameFiles();
  }),
);

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setApiKey(byId("key").value);
  older = [];
  refresh();
});

document.addEventListener("visibilitychange", () => !document.hidden && !timer && refresh());
wireTheme(byId("theme"));
refresh();
