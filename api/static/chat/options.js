// What can be set for a conversation: how each option is shown, checked and sent. Pure: no page, no network.

import { namesOfTools, readBias, readFormat, readTools } from "./pasted.js";

const EFFORTS = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
const TIERS = ["default", "flex", "priority"];
export const LEAVE_OUT = "leave out the oldest";
const MOST = Number.MAX_SAFE_INTEGER;

const number = (name, label, fallback, min, max) => ({ name, label, fallback, kind: "number", step: "any", min, max, read: Number });
const integer = (...facts) => ({ ...number(...facts), step: 1 });
const choice = (name, label, fallback, choices) => ({ name, label, fallback, kind: "choice", choices, read: (text) => text });
const text = (name, label, rest) => ({ name, label, fallback: "", kind: "text", isMono: true, rows: 2, ...rest });
const lines = (value) => value.split("\n").filter((line) => line !== "");

/** `fallback`: what the server does without the option. `read(text)`: its value in a request; throws what is wrong with it.
 * `field`: the request's name for it, if that is another. `tell(text)`: what was understood. */
export const OPTIONS = [
  text("system", "System prompt", { isMono: false, rows: 4, fallback: "You are a helpful assistant.", field: null }),
  number("temperature", "Temperature", "0.7", 0, 2),
  number("top_p", "Top p", "1", 0, 1),
  integer("max_tokens", "Max tokens", "2048", 1),
  integer("seed", "Seed", "random", -MOST, MOST),
  integer("top_k", "Top k", "all", -1, 1_000_000),
  number("min_p", "Min p", "0", 0, 1),
  number("presence_penalty", "Presence penalty", "0", -2, 2),
  number("frequency_penalty", "Frequency penalty", "0", -2, 2),
  number("repetition_penalty", "Repetition penalty", "1", 0.01, 10),
  integer("min_tokens", "Min tokens", "0", 0),
  text("stop", "Stop at", { note: "one per line", read: lines }),
  text("logit_bias", "Logit bias", { note: "by token id", fallback: '{"1234": -100}', read: readBias }),
  choice("reasoning_effort", "Reasoning effort", "model's own", EFFORTS),
  choice("service_tier", "Service tier", "key's first", TIERS),
  { ...choice("overflow", "Longer than the context", "ask me", [LEAVE_OUT]), field: null },
  text("schema", "JSON schema", {
    note: "the answer keeps to it; {}: any JSON object",
    rows: 5,
    fallback: '{"type": "object", "properties": {"city": {"type": "string"}}}',
    field: "response_format",
    read: readFormat,
  }),
  text("tools", "Tools", {
    note: "as in the API, or as an MCP server lists them",
    rows: 6,
    fallback: '[{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]',
    read: readTools,
    tell: (value) => namesOfTools(value).join(", "),
  }),
];

/** A space may be what an answer stops at. */
const isSet = ({ name }, value = "") => (name === "stop" ? value : String(value ?? "").trim()) !== "";

/** The fields of a request. Options that are empty are left out, so that the server's defaults apply. */
export function toFields(options) {
  const wanted = OPTIONS.filter((option) => option.field !== null && isSet(option, options[option.name]));
  return Object.fromEntries(wanted.map(({ name, field = name, read }) => [field, read(String(options[name]))]));
}

/** What is wrong with the text of an option; empty if nothing is. */
export function complaint(option, value) {
  if (!option.read || !isSet(option, value)) return "";
  try {
    option.read(value);
    return "";
  } catch (error) {
    return error.message;
  }
}

/** The options that are set, by name. */
export const setOptions = (options) => OPTIONS.filter((option) => isSet(option, options[option.name])).map(({ name }) => name);
