// The texts under a message: progress, speed, and advice after an error.

import { awayWords } from "./model_words.js";
import { grouped } from "./numbers.js";

const seconds = (milliseconds) => `${(milliseconds / 1000).toFixed(milliseconds < 10_000 ? 2 : 1)} s`;

const perSecond = (rate) => (rate < 100 ? rate.toFixed(1) : grouped(Math.round(rate)));

/** The progress of a running answer. */
export function progress({ state, queued, away, retrying, refusal, firstAt }) {
  if (refusal) return refusal.left > 0 ? "Waiting to be sent again" : "Sending again…";
  if (retrying) return "Connection lost. Reconnecting…";
  if (away) {
    const place = queued?.position > 1 ? `; number ${queued.position} in the queue` : "";
    return awayWords(away, Boolean(firstAt)) + place;
  }
  if (queued?.position > 0) {
    const wait = queued.eta ? `, about ${Math.max(1, Math.round(queued.eta))} s` : "";
    const tier = queued.tier ? ` (${queued.tier})` : "";
    return `Waiting: number ${queued.position} in the queue${tier}${wait}`;
  }
  return { sending: "Sending…", waiting: "Waiting for the first token…", streaming: "" }[state] ?? "";
}

/** "184 tokens · 61.2 tokens/s · first token after 0.21 s" */
export function figures(message) {
  const { usage, sentAt, firstAt, lastAt, numDeltas, resumed } = message;
  const tokens = usage?.completion_tokens ?? numDeltas;
  const all = tokens + (message.earlierTokens ?? 0); // with those before it was continued
  const about = usage ? "" : "≈ ";
  const parts = [];
  if (all) parts.push(`${about}${all} token${all === 1 ? "" : "s"}`);
  if (!resumed && tokens > 1 && lastAt > firstAt) parts.push(`${perSecond((tokens - 1) / ((lastAt - firstAt) / 1000))} tokens/s`);
  if (firstAt) parts.push(`first token after ${seconds(firstAt - sentAt)}`);
  return parts.join(" · ");
}

/** The reason for an end other than the model's own; otherwise empty. */
export function ending({ state, finishReason }) {
  if (state === "stopped") return "Stopped";
  if (state !== "done") return "";
  return { length: "Cut at the token limit", content_filter: "Withheld by a filter" }[finishReason] ?? "";
}

/** Of an answer to a part of the conversation. */
export const leftOut = ({ leftOut: num }) => (num ? `${num} oldest message${num === 1 ? "" : "s"} left out` : "");

/** "48 s", "3 min 5 s", "6 h" */
export function wait(left) {
  if (left < 100) return `${left} s`;
  const minutes = Math.floor(left / 60);
  if (minutes >= 90) return `${Math.ceil(left / 3600)} h`;
  return minutes < 10 && left % 60 ? `${minutes} min ${left % 60} s` : `${Math.ceil(left / 60)} min`;
}

/** "in 20 s", "in 60 min, at 14:32". `retryAt`: in unix milliseconds, of an error that is shown later, too. */
function whenAgain({ retryAfter, retryAt }) {
  const left = retryAt ? Math.ceil((retryAt - Date.now()) / 1000) : (retryAfter ?? null);
  if (left === null) return "in a few seconds";
  if (left <= 0) return "now";
  if (left < 100) return `in ${wait(left)}`;
  const time = new Date(Date.now() + left * 1000).toLocaleTimeString("en", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
  return `in ${wait(left)}, at ${time}`;
}

/** What to do after an error, in one sentence. */
export function advice({ status, code, ...times }) {
  if (code === "context_length_exceeded") return "Leave out the oldest messages, shorten yours, start a new chat, or choose a model that holds more.";
  if (code === "model_not_found") return "Choose another model at the top.";
  if (code === "model_load_failed") return "Choose another model at the top; this one's files or memory need the operator.";
  if (status === 0) return "Check that the server runs and that you are online; then try again.";
  if (status === 401 || status === 403) return "Enter a valid API key in the settings.";
  if (status === 404) return "The server no longer has this answer. Ask again.";
  if (status === 429) return `Too many requests now. Try again ${whenAgain(times)}.`;
  if (status === 503) return `Try again ${whenAgain(times)}.`;
  if (status === 400 || status === 422) return "Change the message or the settings, then try again.";
  return "Try again; if it happens again, look at the server's log.";
}
