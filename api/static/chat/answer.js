// One running answer: sends the request, reads the stream, resumes it after a broken connection or a reload, stops it.

import { ApiError, cancelJob, resumeChat, startChat } from "./api.js";
import { fold, toContinue, toRequest } from "./fold.js";
import { parseAway, parseQueued, readFrames } from "./sse.js";

const SILENCE_MS = 45_000; // the server sends a keep-alive every 15 s
const MAX_REFUSALS = 8; // of one request, which is then left to the user
const MAX_WAIT_S = 300; // a longer one is for the user to decide
const PAUSES_MS = [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000];

export const isRunning = (message) => ["sending", "waiting", "streaming"].includes(message.state);

export class Answer {
  /** `messages`: the conversation before the answer. `onChange` is called after each change of `message`. */
  constructor({ message, messages, key, onChange }) {
    Object.assign(this, { message, messages, key, onChange });
    this.abort = new AbortController();
    this.wakeUp = () => {};
  }

  /** Resolves when the message is done, stopped, failed or lost. Never rejects. */
  async run() {
    window.addEventListener("online", () => this.wakeUp(), { signal: this.abort.signal });
    for (let failures = 0; isRunning(this.message); ) {
      this.heard = false;
      try {
        await this.follow();
        if (!isRunning(this.message)) break;
        throw new ApiError("The connection broke.");
      } catch (error) {
        if (!isRunning(this.message)) break;
        if (this.mayWait(error)) {
          await this.wait(error);
          continue;
        }
        if (!this.mayTryAgain(error)) return this.fail(error);
        failures = this.heard ? 0 : failures + 1;
        if (failures === PAUSES_MS.length) return this.lose();
        await this.pause(PAUSES_MS[failures]);
      }
    }
    this.abort.abort();
  }

  /** Only an accepted job is retried; a refused first request is left to the user. */
  mayTryAgain(error) {
    if (!(error instanceof ApiError)) return error.name === "AbortError" || error instanceof TypeError;
    return this.message.job ? error.isPassing : error.status === 0;
  }

  /** Whether a refused request is sent again by itself: the server is full or not ready, and will not be for long. */
  mayWait({ status, isFinal, retryAfter }) {
    const refusals = this.message.refusal?.count ?? 0;
    const isPassing = [429, 502, 503, 504].includes(status) && !isFinal; // 502 and 504 are a proxy's, while the server starts
    return isPassing && !this.message.job && refusals < MAX_REFUSALS && (retryAfter ?? 0) <= MAX_WAIT_S;
  }

  /** Counts down to the next try, which `hurry` brings forward. */
  async wait({ message: text, retryAfter }) {
    const count = (this.message.refusal?.count ?? 0) + 1;
    const until = Date.now() + (retryAfter ?? Math.min(60, 5 * 2 ** (count - 1))) * 1000;
    this.isHurried = false;
    while (isRunning(this.message) && !this.isHurried && Date.now() < until) {
      this.change({ refusal: { text, count, left: Math.ceil((until - Date.now()) / 1000) } });
      await this.sleep(Math.min(1000, until - Date.now()));
    }
    this.change({ refusal: { text, count, left: 0 } });
  }

  hurry() {
    this.isHurried = true;
    this.wakeUp();
  }

  async follow() {
    const attempt = new AbortController();
    const signal = AbortSignal.any([attempt.signal, this.abort.signal]);
    const silence = new Alarm(SILENCE_MS, () => attempt.abort());
    try {
      const response = await this.open(signal);
      if (!isRunning(this.message)) return;
      this.change({ retrying: false, refusal: null });
      for await (const frame of readFrames(response.body)) {
        silence.restart();
        this.heard = true;
        this.take(frame);
        if (!isRunning(this.message)) return;
      }
    } finally {
      silence.cancel();
      attempt.abort();
    }
  }

  async open(signal) {
    const { message, key } = this;
    if (message.job) return resumeChat(message.job, message.last, { key, signal });
    // the message's id is the Idempotency-Key: sent twice, the request still starts one job
    const body = message.numContinued ? toContinue(this.messages, message) : toRequest(this.messages, message);
    const id = message.numContinued ? `${message.id}-${message.numContinued}` : message.id;
    const response = await startChat(body, { key, signal, id });
    const job = response.headers.get("Omni-Job-Id");
    if (job) message.job = job;
    if (message.stopping) this.cancel();
    else this.change({ state: "waiting" });
    return response;
  }

  take({ comment, id, data }) {
    const { message } = this;
    if (comment !== undefined) {
      const [queued, away] = [parseQueued(comment), parseAway(comment)];
      if (queued) this.change({ queued, away: null });
      if (away) this.change({ away }); // follows the place in the queue
      return;
    }
    if (data === "[DONE]") return this.finish();
    const chunk = JSON.parse(data);
    message.job ??= chunk.id;
    if (fold(message, chunk)) {
      message.firstAt ??= Date.now();
      message.lastAt = Date.now();
      message.numDeltas += 1;
      message.state = "streaming";
    }
    if (id) message.last = id; // stored with the text, so that a resumed stream neither repeats nor skips any
    this.change({ queued: null, away: null });
  }

  finish() {
    const { message } = this;
    const state = message.stopping || message.error?.code === "cancelled" ? "stopped" : message.error ? "failed" : "done";
    if (state === "stopped") message.error = null;
    this.change({ state, queued: null, away: null });
  }

  fail(error) {
    const known = error instanceof ApiError ? error : new ApiError(`The answer cannot be read: ${error.message}`);
    const retryAt = known.retryAfter ? Date.now() + known.retryAfter * 1000 : null;
    this.change({ state: "failed", queued: null, away: null, retrying: false, refusal: null, error: { ...known.toJSON(), retryAt } });
    this.abort.abort();
  }

  lose() {
    this.change({ state: "lost", queued: null, away: null, retrying: false });
    this.abort.abort();
  }

  /** Marks the message as stopped at once and cancels the job as soon as its id is known. */
  stop() {
    this.change({ stopping: true });
    if (this.message.job) this.cancel();
    this.change({ state: "stopped", queued: null, away: null, refusal: null });
    this.wakeUp();
    if (this.message.job) this.abort.abort();
  }

  cancel() {
    cancelJob(this.message.job, this.key).catch(() => {}); // it has ended, or the key was revoked
  }

  change(fields) {
    Object.assign(this.message, fields);
    this.onChange(this.message);
  }

  async pause(milliseconds) {
    this.change({ retrying: true });
    await this.sleep(milliseconds);
  }

  /** Until then, or until `wakeUp` is called. */
  sleep(milliseconds) {
    return new Promise((resolve) => {
      this.wakeUp = resolve;
      setTimeout(resolve, milliseconds);
    });
  }
}

class Alarm {
  constructor(milliseconds, ring) {
    Object.assign(this, { milliseconds, ring });
    this.restart();
  }

  restart() {
    clearTimeout(this.timer);
    this.timer = setTimeout(this.ring, this.milliseconds);
  }

  cancel() {
    clearTimeout(this.timer);
  }
}

/** A new, empty assistant message that an Answer can fill. */
export function emptyAnswer(id, options) {
  return {
    id,
    role: "assistant",
    content: "",
    reasoning: "",
    toolCalls: [],
    state: "sending",
    options: { ...options },
    job: null,
    last: null,
    queued: null,
    away: null,
    error: null,
    usage: null,
    finishReason: null,
    sentAt: Date.now(),
    numDeltas: 0,
  };
}

/** Whether the text is no longer the model's own, which is kept as `original`. */
export const isEdited = ({ original }) => original !== undefined;

/** Whether more can be asked for: the text or the reasoning was stopped or cut, or someone else wrote the end of it. */
export function canContinue({ role, content, reasoning, state, finishReason, toolCalls, original }) {
  const isCut = state === "stopped" || state === "failed" || (state === "done" && finishReason === "length");
  return role === "assistant" && (isCut || isEdited({ original })) && Boolean(content || reasoning) && !toolCalls?.length;
}

/** Makes the message ready for an Answer that adds to its text. */
export function continueAnswer(message) {
  const numContinued = (message.numContinued ?? 0) + 1; // each is a job of its own
  const earlierTokens = (message.earlierTokens ?? 0) + (message.usage?.completion_tokens ?? message.numDeltas);
  const fresh = emptyAnswer(message.id, message.options);
  const { id, content, reasoning, toolCalls, ...state } = fresh;
  Object.assign(message, state, { numContinued, earlierTokens, firstAt: undefined, lastAt: undefined, stopping: false, resumed: false });
}
