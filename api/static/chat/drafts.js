// What was typed in each chat and is not sent yet.

import { recall, remember } from "./recall.js";

const MAX_DRAFTS = 50; // of the chats that were typed in last

/** One chat without messages is as good as another. */
const nameOf = ({ id, messages }) => (messages.length > 0 ? id : "new");

export const draftOf = (conversation) => recall("drafts", {})[nameOf(conversation)] ?? "";

export function keepDraft(conversation, text) {
  const { [nameOf(conversation)]: _, ...others } = recall("drafts", {});
  const kept = Object.entries(text.trim() ? { ...others, [nameOf(conversation)]: text } : others).slice(-MAX_DRAFTS);
  remember("drafts", Object.fromEntries(kept));
}
