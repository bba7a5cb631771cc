// What other pages export, as conversations of this one: ChatGPT's, Open WebUI's and llama.cpp's, with all branches.

import { randomId } from "./dom.js";

const SOURCES = [
  { knows: (one) => one?.mapping, read: fromChatGpt },
  { knows: (one) => one?.chat?.history?.messages ?? one?.chat?.messages, read: fromOpenWebUi },
  { knows: (one) => one?.conv?.id && Array.isArray(one.messages), read: fromLlamaCpp },
];

/** The conversations of a parsed file, or null if it is of none of these. Those without messages are left out. */
export function fromForeign(value) {
  const items = Array.isArray(value) ? value : [value];
  const source = SOURCES.find(({ knows }) => knows(items[0]));
  if (!source) return null;
  return items.filter(source.knows).map(source.read).filter(({ messages }) => messages.length > 0);
}

const milliseconds = (time) => (time > 1e11 ? time : time * 1000) || undefined; // some write seconds

/** `nodes`: {id, parent, message}. One without a message is left out: what follows it follows its parent, and its `reasoning`
 * is that of the next message. */
function grown({ id, title, created, updated, isPinned = false, system, current, nodes }) {
  const known = new Map(nodes.map((node) => [node.id, node]));
  const messages = nodes.filter(({ message }) => message).map(({ id, parent, message }, order) => {
    const thoughts = [];
    let above = known.get(parent);
    for (let steps = 0; above && !above.message && steps < known.size; above = known.get(above.parent), steps += 1) {
      if (above.reasoning) thoughts.unshift(above.reasoning);
    }
    const reasoning = thoughts.length > 0 && message.role === "assistant" ? { reasoning: thoughts.join("\n\n") } : {};
    return { ...message, ...reasoning, id, order, parent: above?.message ? above.id : null };
  });
  const placed = new Map(messages.map((message) => [message.id, message]));
  const chosen = {};
  let open = known.get(current);
  while (open && !open.message) open = known.get(open.parent);
  for (let one = placed.get(open?.id); one && !((one.parent ?? "") in chosen); one = placed.get(one.parent)) chosen[one.parent ?? ""] = one.id;
  const options = system ? { system } : {};
  return { id: String(id ?? randomId()), title, isNamed: Boolean(title), isPinned, created, updated, options, chosen, messages };
}

const textOf = (content) => (Array.isArray(content) ? content.map((part) => part?.text ?? "").filter(Boolean).join("\n") : String(content ?? ""));

// ChatGPT: the conversations.json of its export

const CITATION = /\ue200[^\ue201]*\ue201/g; // marks that only its own page can show

function fromChatGpt({ id, conversation_id, title, create_time, update_time, mapping, current_node }) {
  const times = Object.values(mapping).sort((one, other) => (one.message?.create_time ?? 0) - (other.message?.create_time ?? 0));
  const nodes = times.map((node) => ({ id: node.id, parent: node.parent, ...nodeOfChatGpt(node.message) }));
  const [created, updated] = [milliseconds(create_time), milliseconds(update_time)];
  return grown({ id: conversation_id ?? id, title, created, updated, current: current_node, nodes });
}

function nodeOfChatGpt(message) {
  const { author, content, recipient = "all", metadata = {} } = message ?? {};
  if (content?.content_type === "thoughts") return { reasoning: (content.thoughts ?? []).map((thought) => thought.content).join("\n\n") };
  const isShown = ["user", "assistant"].includes(author?.role) && recipient === "all" && !metadata.is_visually_hidden_from_conversation;
  const isText = ["text", "multimodal_text", "code"].includes(content?.content_type);
  const text = isShown && isText ? textOfChatGpt(content).replace(CITATION, "") : "";
  return text.trim() ? { message: { role: author.role, content: text, model: metadata.model_slug } } : {};
}

function textOfChatGpt({ parts, text }) {
  const words = (part) => (typeof part === "string" ? part : (part?.text ?? (part?.asset_pointer ? "[an image]" : "")));
  return parts ? parts.map(words).filter(Boolean).join("\n\n") : (text ?? "");
}

// Open WebUI

const DETAILS = /<details type="(\w+)"([^>]*)>\s*(?:<summary>[^<]*<\/summary>)?([\s\S]*?)<\/details>\s*/g;

function fromOpenWebUi({ id, title, chat, pinned, created_at, updated_at }) {
  const all = chat.history?.messages ? Object.values(chat.history.messages) : chat.messages;
  const nodes = all.map((message, index) => ({
    id: message.id ?? String(index),
    parent: message.parentId ?? (message.id ? null : String(index - 1)),
    message: messageOfOpenWebUi(message),
  }));
  const updated = milliseconds(updated_at ?? chat.timestamp);
  const facts = { id: id ?? chat.id, title: title ?? chat.title, created: milliseconds(created_at) ?? updated, updated, isPinned: Boolean(pinned) };
  return grown({ ...facts, system: chat.params?.system ?? chat.system, current: chat.history?.currentId, nodes });
}

function messageOfOpenWebUi({ role, content, model, files = [] }) {
  if (role !== "user" && role !== "assistant") return null;
  const thoughts = [];
  const text = textOf(content).replace(DETAILS, (_, type, facts, body) => {
    if (type === "reasoning") thoughts.push(decoded(body.replace(/^(?:>|&gt;) ?/gm, "")).trim());
    const name = /name="([^"]*)"/.exec(facts)?.[1];
    return type === "tool_calls" && name ? `*Called ${decoded(name)}.*\n\n` : "";
  });
  const attachments = files.map(attachmentOfOpenWebUi).filter(Boolean);
  if (!text.trim() && attachments.length === 0) return null;
  const rest = role === "user" ? { attachments } : { model, reasoning: thoughts.join("\n\n") };
  return { role, content: text.trim(), ...rest };
}

function attachmentOfOpenWebUi({ type, name, url, file }) {
  if (type === "image" && /^data:image\//.test(url ?? "")) return imageOf(name, url);
  const text = file?.data?.content;
  return text ? { kind: "text", name: name ?? "file", text } : null;
}

const imageOf = (name, url) => ({ kind: "image", name: name ?? "image", type: url.slice(5, url.indexOf(";")), url, bytes: Math.round(url.length * 0.75) });

const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', "#x27": "'", "#39": "'" };

const decoded = (text) => text.replace(/&(amp|lt|gt|quot|#x27|#39);/g, (_, name) => ENTITIES[name]);

// llama.cpp's page

function fromLlamaCpp({ conv, messages }) {
  const system = messages.find(({ role, content }) => role === "system" && content)?.content;
  const nodes = messages.map((one) => ({ id: String(one.id), parent: String(one.parent ?? ""), message: messageOfLlamaCpp(one) }));
  const updated = milliseconds(conv.lastModified);
  return grown({ id: conv.id, title: conv.name, created: updated, updated, system, current: String(conv.currNode ?? ""), nodes });
}

function messageOfLlamaCpp({ role, type, content, model, thinking, reasoningContent, extra = [] }) {
  if (type === "root" || !["user", "assistant"].includes(role)) return null;
  const attachments = (extra ?? []).map(attachmentOfLlamaCpp).filter(Boolean);
  if (!content?.trim() && attachments.length === 0) return null;
  return { role, content: content ?? "", ...(role === "user" ? { attachments } : { model, reasoning: reasoningContent ?? thinking ?? "" }) };
}

function attachmentOfLlamaCpp({ name, base64Url, content }) {
  if (/^data:image\//.test(base64Url ?? "")) return imageOf(name, base64Url);
  return content ? { kind: "text", name: name ?? "file", text: content } : null;
}
