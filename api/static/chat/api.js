// Requests to the server; a refusal becomes an ApiError.

// The address of the server, from this file's, in which there may be a version; also correct behind a proxy that adds a path.
const ROOT = new URL(import.meta.url.replace(/static\/(v-[^/]+\/)?chat\/api\.js.*$/, ""));

/** A refusal with the server's message. `status` is 0 without a response. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null, retryAfter = null, isFinal = false } = {}) {
    super(message);
    Object.assign(this, { status, code, param, retryAfter, isFinal });
  }

  get isPassing() {
    return !this.isFinal && (this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500);
  }

  toJSON() {
    const { message, status, code, param, retryAfter } = this;
    return { message, status, code, param, retryAfter };
  }
}

/** The response if it is a 2xx. `body`: a form, or what is sent as JSON. Otherwise throws ApiError; an AbortError is passed on. */
export async function call(path, { key, method = "GET", body, headers = {}, signal } = {}) {
  const options = { method, signal, headers: { ...headers, Authorization: `Bearer ${key}` }, cache: "no-store" };
  if (body instanceof FormData) options.body = body;
  else if (body) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  const response = await fetch(new URL(path, ROOT), options).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.");
  });
  if (response.ok) return response;
  throw await refusal(response);
}

async function refusal(response) {
  const seconds = Number(response.headers.get("Retry-After"));
  const isFinal = response.headers.get("x-should-retry") === "false"; // a retry would only repeat the failure
  const facts = { status: response.status, retryAfter: seconds > 0 ? seconds : null, isFinal };
  try {
    const { error } = await response.json();
    return new ApiError(error.message, { ...facts, code: error.code, param: error.param });
  } catch {
    return new ApiError(`The server answered ${response.status} ${response.statusText}.`, facts);
  }
}

export async function listModels(key) {
  const response = await call("v1/models", { key });
  return (await response.json()).data;
}

export const startChat = (body, { key, id, signal }) =>
  call("v1/chat/completions", { key, signal, method: "POST", body, headers: { "Idempotency-Key": id } });

/** How many tokens the messages of `body` are for its model. */
export async function countTokens(body, { key, signal }) {
  const response = await call("tokenize", { key, signal, method: "POST", body });
  return (await response.json()).count;
}

export function resumeChat(jobId, after, { key, signal }) {
  const query = new URLSearchParams({ stream: "true" });
  if (after !== null) query.set("starting_after", after);
  return call(`v1/chat/completions/${encodeURIComponent(jobId)}?${query}`, { key, signal });
}

export const cancelJob = (jobId, key) => call(`v1/jobs/${encodeURIComponent(jobId)}`, { key, method: "DELETE" });

/** `action`: load, unload, pin or unpin. Needs an admin key. */
export const orderModel = (id, action, key) => call(`v1/models/${encodeURIComponent(id)}/${action}`, { key, method: "POST" });

export const openBoard = (key, signal) => call("admin/board", { key, signal });
