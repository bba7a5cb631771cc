// The board: models that share a device, workers, waiting, running and scheduled jobs, batches, webhooks that fail, recent failures.

import { Feed } from "./board/feed.js";
import { Rows } from "./board/rows.js";
import { notLoaded, Shelves } from "./board/shelf.js";
import { duration, grouped, linesPerSecond, moment, percent, tierNumbers } from "./board/words.js";
import { WorkerCard } from "./board/worker_card.js";
import { cancelJob } from "./chat/api.js";
import { byId, h } from "./chat/dom.js";
import { adminKey, setAdminKey } from "./chat/key.js";
import { wireTheme } from "./chat/theme.js";

const cells = (...names) => names.map((name) => h("td", { class: name }));

function fill(row, texts) {
  for (const [name, text] of Object.entries(texts)) row.querySelector(`.${name}`).textContent = text;
  row.querySelector(".id").title = texts.id; // cut when the column is narrow
}

async function cancel(button, id) {
  button.disabled = true;
  button.textContent = "Cancelling…";
  try {
    await cancelJob(id, adminKey());
    byId("announcement").textContent = `${id} is cancelled.`;
  } catch (error) {
    button.disabled = false;
    button.textContent = "Cancel";
    byId("announcement").textContent = error.message;
    byId("banner").textContent = error.message;
    byId("banner").hidden = false;
  }
}

function cancelCell(id) {
  const button = h("button", { type: "button", "aria-label": `Cancel ${id}`, onclick: () => cancel(button, id) }, "Cancel");
  return h("td", { class: "do" }, button);
}

const jobRow = (item, ...names) => h("tr", {}, ...cells(...names), cancelCell(item.id));

const TABLES = ["workers", "running", "waiting", "scheduled", "batches", "webhooks", "failed"];
const key = (item) => item.id;

const cards = new WeakMap(); // element -> WorkerCard
const workers = new Rows(byId("workers"), {
  key: ({ fence, queue }) => `${fence} ${queue}`, // a loading worker has no fence yet
  make() {
    const card = new WorkerCard();
    cards.set(card.element, card);
    return card.element;
  },
  update: (element, worker) => cards.get(element).update(worker, now),
});

const running = new Rows(byId("running"), {
  key,
  make(item) {
    const row = jobRow(item, "id", "owner", "age", "tokens");
    const bar = h("progress", { "aria-label": `Progress of ${item.id}` });
    row.querySelector(".tokens").append(bar, h("span", { class: "count" }), h("span", { class: "share" }));
    return row;
  },
  update(row, item) {
    const share = item.max_tokens ? item.tokens / item.max_tokens : 0;
    row.querySelector("progress").value = share;
    const count = `${grouped(item.tokens)} of ${grouped(item.max_tokens)}`;
    fill(row, { id: item.id, owner: item.owner, age: duration(item.age_s), count, share: ` (${percent(share)})` });
  },
});

const waiting = new Rows(byId("waiting"), {
  key,
  make: (item) => jobRow(item, "position", "id", "owner", "age", "tokens"),
  update: (row, item) =>
    fill(row, {
      position: item.position,
      id: item.id,
      owner: item.owner,
      age: duration(item.age_s),
      tokens: grouped(item.prompt_tokens),
    }),
});

const failed = new Rows(byId("failed"), {
  key,
  make: () => h("tr", {}, ...cells("id", "code", "age")),
  update: (row, item) => fill(row, { id: item.id, code: item.code, age: `${duration(item.age_s)} ago` }),
});

const scheduled = new Rows(byId("scheduled"), {
  key,
  make: (item) => jobRow(item, "id", "owner", "when"),
  update: (row, item) => fill(row, { id: item.id, owner: item.owner, when: moment(item.not_before) }),
});

const batches = new Rows(byId("batches"), {
  key,
  make(item) {
    const row = h("tr", {}, ...cells("id", "owner", "status", "tokens", "rate", "left"));
    row.querySelector(".status").append(h("span", { class: "state" }));
    row.querySelector(".tokens").append(h("progress", { "aria-label": `Progress of ${item.id}` }), h("span", { class: "count" }));
    return row;
  },
  update(row, item) {
    const failures = item.failed ? `, ${grouped(item.failed)} failed` : "";
    row.querySelector("progress").value = item.total ? item.done / item.total : 0;
    row.querySelector(".state").dataset.state = item.status;
    row.title = [item.model, item.endpoint].filter(Boolean).join(" · ");
    fill(row, {
      id: item.id,
      owner: item.owner,
      state: item.status.replace("_", " "),
      count: `${grouped(item.done)} of ${grouped(item.total)}${failures}`,
      rate: linesPerSecond(item.lines_per_s),
      left: item.eta === null ? "–" : duration(item.eta - now),
    });
  },
});

const webhooks = new Rows(byId("webhooks"), {
  key,
  make() {
    const row = h("tr", {}, ...cells("id", "owner", "code", "since"));
    row.querySelector(".id").classList.add("url");
    return row;
  },
  update(row, item) {
    fill(row, {
      id: item.url,
      owner: item.owner,
      code: item.disabled ? "disabled" : "failing",
      since: `${duration(now - (item.failing_since ?? item.disabled))}`,
    });
    row.title = [item.name, item.id, item.reason].filter(Boolean).join(" · ");
  },
});

const shelves = new Shelves();

let now = 0; // the server's clock, as of the board being shown

function show(board) {
  now = board.time;
  const away = notLoaded(board.shelves);
  shelves.show(board.shelves, now);
  workers.show(board.workers.filter(({ queue }) => !away.has(queue))); // a model that is away has no figures
  running.show(board.running);
  waiting.show(board.waiting);
  failed.show(board.failed);
  scheduled.show(board.scheduled);
  batches.show(board.batches);
  webhooks.show(board.webhooks);
  byId("num-running").textContent = grouped(board.running.length);
  byId("num-waiting").textContent = grouped(board.num_waiting);
  byId("num-failed").textContent = grouped(board.failed.length);
  byId("num-scheduled").textContent = grouped(board.num_scheduled);
  byId("num-batches").textContent = `${grouped(board.num_open_batches)} open`;
  byId("num-webhooks").textContent = grouped(board.webhooks.length);
  showMore("waiting", board.num_waiting - board.waiting.length);
  showMore("scheduled", board.num_scheduled - board.scheduled.length);
  showMore("batches", board.num_open_batches - board.batches.length);
  for (const name of ["running", "waiting"]) byId(`tiers-${name}`).textContent = tierNumbers(board.tiers, name);
  for (const name of TABLES) byId(`no-${name}`).hidden = board[name].length > 0;
  byId("store-away").hidden = !board.is_store_away;
}

function showMore(name, number) {
  byId(`more-${name}`).textContent = number > 0 ? `and ${grouped(number)} more` : "";
}

function showState(state, error) {
  const words = { live: "Live", retrying: "Reconnecting…", refused: "Not connected" };
  if (byId("live").dataset.state === state && state === "live") return;
  byId("live").dataset.state = state;
  byId("live").textContent = words[state];
  byId("banner").hidden = state === "live";
  byId("banner").textContent = state === "live" ? "" : `${error.message} ${state === "retrying" ? "Trying again…" : ""}`;
  byId("key-form").hidden = state !== "refused";
  if (state === "refused") byId("key").focus();
}

const feed = new Feed({ onBoard: show, onState: showState });
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setAdminKey(byId("key").value);
  feed.start(adminKey());
});
wireTheme(byId("theme"));
feed.start(adminKey());
