// Requests for files and batches. Batches of both dialects get one form:
// {id, isAnthropics, status, isOpen, title, total, done, failed, rate, eta, created, expires, ended, waitsFor, model, errors, input, files}

import { call } from "../chat/api.js";

const OPEN = ["validating", "in_progress", "finalizing", "cancelling"];

/** A page of OpenAI's batches, and with the first page the newest of Anthropic's; newest first. */
export async function listBatches(key, after = "") {
  const query = new URLSearchParams(after ? { limit: 20, after } : { limit: 20 });
  const lists = [call(`v1/batches?${query}`, { key })];
  if (!after) lists.push(call("v1/messages/batches?limit=20", { key }));
  const [own, others] = await Promise.all((await Promise.all(lists)).map((response) => response.json()));
  const batches = [...own.data.map(fromOpenai), ...(others?.data ?? []).map(fromAnthropic)];
  return { batches: batches.sort((one, other) => other.created - one.created), last: own.last_id, hasMore: own.has_more };
}

function fromOpenai(batch) {
  const { total, completed, failed } = batch.request_counts;
  return {
    id: batch.id,
    status: batch.status,
    isOpen: OPEN.includes(batch.status),
    canCancel: ["validating", "in_progress"].includes(batch.status),
    title: [batch.model, batch.endpoint].filter(Boolean).join(" · "),
    total,
    done: completed + failed,
    failed,
    rate: batch.lines_per_s ?? null,
    eta: batch.eta ?? null,
    created: batch.created_at,
    expires: batch.expires_at,
    ended: batch.completed_at ?? batch.failed_at ?? batch.expired_at ?? batch.cancelled_at,
    waitsFor: batch.waiting_for ?? "",
    model: batch.model,
    errors: batch.errors?.data ?? [],
    input: batch.input_file_id,
    files: [
      { name: "Results", path: batch.output_file_id, as: `${batch.id}_output.jsonl` },
      { name: "Errors", path: batch.error_file_id, as: `${batch.id}_error.jsonl` },
    ]
      .filter(({ path }) => path)
      .map((file) => ({ ...file, path: `v1/files/${file.path}/content` })),
  };
}

function fromAnthropic(batch) {
  const { processing, succeeded, errored, canceled, expired } = batch.request_counts;
  const seconds = (moment) => (moment ? Date.parse(moment) / 1000 : null);
  const done = succeeded + errored + canceled + expired;
  const isOpen = batch.processing_status !== "ended";
  return {
    id: batch.id,
    isAnthropics: true,
    status: batch.processing_status,
    isOpen,
    canCancel: batch.processing_status === "in_progress",
    title: "/v1/messages",
    total: processing + done,
    done,
    failed: errored,
    rate: null,
    eta: null,
    created: seconds(batch.created_at),
    expires: seconds(batch.expires_at),
    ended: seconds(batch.ended_at),
    waitsFor: batch.waiting_for ?? "",
    model: null, // each of its requests names one
    errors: [],
    input: null,
    files: batch.results_url
      ? [{ name: "Results", path: `v1/messages/batches/${batch.id}/results`, as: `${batch.id}_results.jsonl` }]
      : [],
  };
}

export async function fileName(key, id) {
  return (await (await call(`v1/files/${id}`, { key })).json()).filename;
}

/** Uploads the file and makes a batch of it. */
export async function begin(key, file, endpoint, completionWindow) {
  const form = new FormData();
  form.append("purpose", "batch");
  form.append("file", file);
  const { id } = await (await call("v1/files", { key, method: "POST", body: form })).json();
  const body = { input_file_id: id, endpoint, completion_window: completionWindow };
  return (await call("v1/batches", { key, method: "POST", body })).json();
}

const pathOf = ({ id, isAnthropics }) => `${isAnthropics ? "v1/messages/batches" : "v1/batches"}/${id}`;

export const cancelBatch = (key, batch) => call(`${pathOf(batch)}/cancel`, { key, method: "POST" });

/** With its results; of OpenAI's the input file stays. */
export const deleteBatch = (key, batch) => call(pathOf(batch), { key, method: "DELETE" });

/** Why these models serve nothing now: "is not loaded", by their ids. */
export async function absentModels(key) {
  const { data } = await (await call("v1/models", { key })).json();
  const words = { loading: "is being loaded", unloaded: "is not loaded" };
  return new Map(data.filter(({ status }) => status?.value in words).map(({ id, status }) => [id, words[status.value]]));
}

/** Saves a file of the server under the name `as`. */
export async function download(key, { path, as }) {
  const url = URL.createObjectURL(await (await call(path, { key })).blob());
  const link = document.createElement("a");
  Object.assign(link, { href: url, download: as });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
