// Conversations as files: JSON, which holds all of them with their branches, and Markdown, which reads well.

import { randomId } from "./dom.js";
import { fromForeign } from "./foreign.js";
import { textsOf } from "./zip.js";

const FORMAT = "omni-chats";
const ROLES = ["user", "assistant", "tool", "system"];
const NAMES = { user: "You", assistant: "Assistant", tool: "Tool result", system: "System" };
const RUNNING = ["sending", "waiting", "streaming"];
const MARK = /^<!-- omni:(\w+) -->$/gm;
const HEAD_OF_NEXT = /\n## [^\n]*\n\n?(?:>[^\n]*\n)*\s*$/; // what stands before the next mark

/** `conversations`: with their messages loaded. */
export function toJson(conversations) {
  const whole = conversations.map(({ nodes, messages, ...fields }) => ({ ...fields, messages: [...nodes.values()] }));
  return JSON.stringify({ format: FORMAT, version: 1, exported: new Date().toISOString(), conversations: whole }, null, 1);
}

/** The open path, with a mark before each message by which it can be imported again. */
export function toMarkdown({ title, messages }) {
  const parts = messages.map((message) => {
    const { role, model, content, reasoning, toolCalls = [], attachments = [] } = message;
    const name = NAMES[role] + (model ? ` (${model})` : "");
    const thought = reasoning ? `> Reasoning:\n${reasoning.trim().replace(/^/gm, "> ")}\n\n` : "";
    const files = attachments.length > 0 ? `> Attached: ${attachments.map((file) => file.name).join(", ")}\n\n` : "";
    const calls = toolCalls.map((call) => `\n\n\`${call.name}(${call.arguments})\``).join("");
    return `## ${name}\n\n${files}${thought}<!-- omni:${role} -->\n${escaped(content.trimEnd())}${calls}\n`;
  });
  return [`# ${title}\n`, ...parts].join("\n");
}

const escaped = (text) => text.replace(/^<!-- (\\*)omni:/gm, "<!-- \\$1omni:");
const unescaped = (text) => text.replace(/^<!-- \\(\\*)omni:/gm, "<!-- $1omni:");

/** The conversations of a file. Throws an Error that says what is wrong with it. */
export async function fromFile(file) {
  if (!/\.zip$/i.test(file.name)) return fromText(file.name, await file.text());
  const texts = await textsOf(file, /(?:^|\/)conversations(?:-\d+)?\.json$/);
  if (texts.length === 0) throw new Error("The archive has no conversations.json, as ChatGPT's export has. Unpack it, and import the file of its chats.");
  return texts.flatMap((text) => fromText("conversations.json", text));
}

function fromText(name, text) {
  if (/\.(md|markdown|txt)$/i.test(name)) return [fromMarkdown(text)];
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error("This is neither JSON nor a Markdown file (.md).");
  }
  if (value?.format === FORMAT && Array.isArray(value.conversations)) return value.conversations.map(checked);
  const foreign = fromForeign(value);
  if (foreign) return foreign.map(checked);
  const messages = Array.isArray(value) ? value : value?.messages;
  if (!Array.isArray(messages)) {
    throw new Error('A JSON file must be an export of this page, of ChatGPT, Open WebUI or llama.cpp, or hold "messages" as in the API.');
  }
  return [inLine({ title: value.title ?? "", messages })];
}

function fromMarkdown(text) {
  const [head, ...parts] = text.replaceAll("\r\n", "\n").split(MARK);
  if (parts.length === 0) throw new Error("The file has no messages: each needs <!-- omni:user --> or <!-- omni:assistant --> in the line before it.");
  const messages = [];
  for (let at = 0; at < parts.length; at += 2) {
    const isLast = at + 2 === parts.length;
    const body = isLast ? parts[at + 1] : parts[at + 1].replace(HEAD_OF_NEXT, "");
    messages.push({ role: parts[at], content: unescaped(body).replace(/^\n+/, "").trimEnd() });
  }
  return inLine({ title: head.match(/^# (.+)$/m)?.[1] ?? "", messages });
}

/** Messages as in the API, each after the one before. A system message becomes the system prompt. */
function inLine({ title, messages }) {
  const system = messages.find((message) => message?.role === "system")?.content;
  const ids = messages.map(() => randomId());
  const nodes = messages
    .filter((message) => message?.role !== "system")
    .map((message, order) => ({ ...fromApi(message), id: ids[order], order, parent: ids[order - 1] ?? null }));
  const options = typeof system === "string" ? { system } : {};
  return checked({ id: randomId(), title, isNamed: Boolean(title), options, messages: nodes }, 0);
}

function fromApi(message) {
  const { role, content, tool_calls: calls, tool_call_id: toolCallId } = message ?? {};
  const text = Array.isArray(content) ? content.map((part) => part?.text ?? "").join("\n") : content;
  if (role === "tool") return { role, content: text, toolCallId };
  if (!Array.isArray(calls)) return { role, content: text };
  const toolCalls = calls.map((call) => ({ id: call.id, ...call.function, answered: true }));
  return { role, content: text, toolCalls, finishReason: "tool_calls" };
}

function checked(conversation, index) {
  const where = `conversations[${index}]`;
  if (typeof conversation?.id !== "string" || !Array.isArray(conversation.messages)) throw new Error(`${where} needs an "id" and "messages".`);
  const messages = conversation.messages.map((message, at) => checkedMessage(message, `${where}.messages[${at}]`));
  const ids = new Set(messages.map((message) => message.id));
  const lost = messages.findIndex(({ parent }) => parent !== null && !ids.has(parent));
  if (lost >= 0) throw new Error(`${where}.messages[${lost}].parent is not one of its messages.`);
  const { id, title, isNamed, created, updated, isPinned, folder, options, chosen } = conversation;
  const time = Number.isFinite(updated) ? updated : Date.now();
  return {
    id, isNamed: Boolean(isNamed), isPinned: Boolean(isPinned), updated: time, created: Number.isFinite(created) ? created : time,
    title: String(title || "Imported chat"), folder: folder ? String(folder) : null,
    options: { ...options }, chosen: { ...chosen }, messages,
  };
}

function checkedMessage(message, where) {
  if (!ROLES.includes(message?.role)) throw new Error(`${where}.role must be one of ${ROLES.join(", ")}.`);
  if (typeof (message.content ?? "") !== "string") throw new Error(`${where}.content must be a text.`);
  const { id, parent } = message;
  if (typeof id !== "string" || !(parent === null || typeof parent === "string")) throw new Error(`${where} needs an "id" and a "parent".`);
  const whole = { ...message, content: message.content ?? "" };
  if (message.role !== "assistant") return whole;
  const state = RUNNING.includes(message.state) ? "stopped" : (message.state ?? "done");
  return { options: {}, reasoning: "", toolCalls: [], finishReason: "stop", numDeltas: 0, ...whole, state, job: null, last: null };
}

/** Saves a text as a file of the browser. */
export function download(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name.replace(/[\\/:*?"<>|\u0000-\u001f]+/g, " ").trim().slice(0, 80);
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
