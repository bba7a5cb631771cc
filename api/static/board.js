// The board: workers, waiting and running jobs, recent failures.

import { Feed } from "./board/feed.js";
import { Rows } from "./board/rows.js";
import { duration, grouped, percent } from "./board/words.js";
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

let now = 0; // the server's clock, as of the board being shown

function show(board) {
  now = board.time;
  workers.show(board.workers);
  running.show(board.running);
  waiting.show(board.waiting);
  failed.show(board.failed);
  byId("num-running").textContent = grouped(board.running.length);
  byId("num-waiting").textContent = grouped(board.num_waiting);
  byId("num-failed").textContent = grouped(board.failed.length);
  const more = board.num_waiting - board.waiting.length;
  byId("more-waiting").textContent = more > 0 ? `and ${grouped(more)} more` : "";
  for (const name of ["workers", "running", "waiting", "failed"]) byId(`no-${name}`).hidden = board[name].length > 0;
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
