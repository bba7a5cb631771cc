// A conversation is a tree of messages, and one path through it is open. Pure: no page, no storage.
//
// `nodes`: all messages by id, oldest first; each knows its `parent` (null for a first one). `chosen`: for a message with
// several answers (or "" for several beginnings) the id of the open one, if that is not the newest. `messages`: the path.

const parentOf = (message) => message.parent ?? null;
const choiceOf = (message) => parentOf(message) ?? "";

/** Takes these messages as the whole conversation and opens its path. */
export function plant(conversation, messages) {
  conversation.nodes = new Map(messages.map((message) => [message.id, message]));
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

/** Takes a message and all that follows it out, and opens the variant before it, else the one after it. Returns what it took. */
export function cut(conversation, message) {
  const ways = variants(conversation, message);
  const at = ways.indexOf(message);
  const beside = ways[at - 1] ?? ways[at + 1];
  const taken = [message];
  for (const { id } of taken) taken.push(...[...conversation.nodes.values()].filter((node) => parentOf(node) === id)); // it grows
  for (const { id } of taken) conversation.nodes.delete(id);
  if (beside) conversation.chosen[choiceOf(message)] = beside.id;
  openPath(conversation);
  return taken;
}

/** Puts back what was cut, and opens it. */
export function putBack(conversation, taken) {
  plant(conversation, [...conversation.nodes.values(), ...taken].sort((one, other) => one.order - other.order));
  choose(conversation, taken[0]);
}

/** The messages that lead to this one, without it. */
export function lineage(conversation, message) {
  const found = [];
  for (let node = message; (node = conversation.nodes.get(parentOf(node))) && found.length < conversation.nodes.size; ) found.unshift(node);
  return found;
}
