// A conversation is a tree of messages, and one path through it is open. Pure: no page, no storage.
//
// `nodes`: all messages by id, oldest first; each knows its `parent` (null for a first one). `chosen`: for a message with
// several answers (or "" for several beginnings) the id of the open one, if that is not the newest. `messages`: the path.

import { randomId } from "./dom.js";

const parentOf = (message) => message.parent ?? null;
const choiceOf = (message) => parentOf(message) ?? "";

/** Takes these messages as the whole conversation and opens its path. What follows a message that is gone is a beginning: two
 * tabs may have changed the conversation at once. */
export function plant(conversation, messages) {
  conversation.nodes = new Map(messages.map((message) => [message.id, message]));
  for (const message of messages) if (!conversation.nodes.has(parentOf(message))) message.parent = null;
  openPath(conversation);
}

function openPath(conversation) {
  const children = new Map();
  for (const node of conversation.nodes.values()) {
    const choice = choiceOf(node);
    if (!children.has(choice)) children.set(choice, []);
    children.get(choice).push(node);
  }
  conversation.messages = [];
  for (let choice = ""; children.has(choice); choice = conversation.messages.at(-1).id) {
    const ways = children.get(choice);
    conversation.messages.push(ways.find(({ id }) => id === conversation.chosen[choice]) ?? ways.at(-1));
    if (conversation.messages.length > conversation.nodes.size) break; // a circle, in a file that was edited by hand
  }
}

/** Adds a message at the end of the open path. */
export function append(conversation, message) {
  message.parent = conversation.messages.at(-1)?.id ?? null;
  message.order = Math.max(0, ...[...conversation.nodes.values()].map(({ order }) => order + 1));
  message.conversation = conversation.id;
  delete conversation.chosen[choiceOf(message)]; // the newest is open
  conversation.nodes.set(message.id, message);
  conversation.messages.push(message);
}

/** Ends the open path before this message, which stays as one of several ways from there. */
export function stepBack(conversation, message) {
  conversation.messages.splice(conversation.messages.indexOf(message));
}

/** The messages that stand at this one's place, itself included, oldest first. */
export function variants(conversation, message) {
  return [...conversation.nodes.values()].filter((other) => parentOf(other) === parentOf(message));
}

/** Opens the path through this message. */
export function choose(conversation, message) {
  conversation.chosen[choiceOf(message)] = message.id;
  openPath(conversation);
}

/** Takes a message that nothing follows, and that the open path does not hold, out of the conversation. */
export function drop(conversation, message) {
  conversation.nodes.delete(message.id);
  delete conversation.chosen[choiceOf(message)];
}

const childrenOf = (conversation, { id }) => [...conversation.nodes.values()].filter((node) => parentOf(node) === id);

/** A message and all that follows it, in every variant. */
export function withFollowing(conversation, message) {
  const found = [message];
  for (const one of found) found.push(...childrenOf(conversation, one)); // it grows
  return found;
}

/** Takes a message and all that follows it out, and opens the variant before it, else the one after it. Returns what `putBack`
 * needs. */
export function cut(conversation, message) {
  const ways = variants(conversation, message);
  const at = ways.indexOf(message);
  return takeOut(conversation, { taken: withFollowing(conversation, message), next: ways[at - 1] ?? ways[at + 1] });
}

/** Takes one message out of the middle: what followed it, follows what stood before it. The results of its calls go with it.
 * Returns what `putBack` needs. */
export function lift(conversation, message) {
  const taken = [message];
  for (const one of taken) taken.push(...childrenOf(conversation, one).filter(({ role }) => role === "tool")); // it grows
  const following = taken.flatMap((one) => childrenOf(conversation, one)).filter((node) => !taken.includes(node));
  const next = following.find((node) => conversation.messages.includes(node));
  const moved = following.map((node) => ({ node, parent: node.parent }));
  for (const { node } of moved) node.parent = parentOf(message);
  return takeOut(conversation, { taken, moved, next });
}

function takeOut(conversation, { taken, moved = [], next }) {
  const chosen = { ...conversation.chosen };
  for (const { id } of taken) conversation.nodes.delete(id);
  if (next) conversation.chosen[choiceOf(taken[0])] = next.id;
  openPath(conversation);
  return { taken, moved, chosen };
}

/** Puts back what was taken out, and opens it. */
export function putBack(conversation, { taken, moved, chosen }) {
  for (const { node, parent } of moved) node.parent = parent;
  conversation.chosen = { ...conversation.chosen, ...chosen };
  plant(conversation, [...conversation.nodes.values(), ...taken].sort((one, other) => one.order - other.order));
  choose(conversation, taken[0]);
}

/** Copies of messages, for another conversation. They are no jobs, and at the end no calls have results. */
export function copies(messages) {
  const made = messages.map((one) => ({ ...structuredClone(one), id: randomId(), job: null, last: null }));
  for (const call of made.at(-1)?.toolCalls ?? []) call.answered = false;
  return made;
}

/** The call that a tool's result answers. */
export const callOf = (conversation, { toolCallId, ...result }) => {
  const caller = lineage(conversation, result).findLast(({ role }) => role === "assistant");
  return { caller, call: caller?.toolCalls.find(({ id }) => id === toolCallId) };
};

/** The messages that lead to this one, without it. */
export function lineage(conversation, message) {
  const found = [];
  for (let node = message; (node = conversation.nodes.get(parentOf(node))) && found.length < conversation.nodes.size; ) found.unshift(node);
  return found;
}
