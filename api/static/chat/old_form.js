// Conversations as localStorage held them: one entry each, without branches.

export const OLD_PREFIX = "omni.chat.";

/** The conversation of an entry, or null if it is not one. */
export function messagesOfOldForm(text) {
  try {
    const { id, title, updated, options, messages } = JSON.parse(text);
    return id && Array.isArray(messages) && messages.length > 0 ? { id, title, updated, options, messages } : null;
  } catch {
    return null; // not ours, or cut short
  }
}
