// Finds conversations by all words of a query, in their titles and messages. Pure.

const AROUND = 36; // characters before a found word

/** [{conversation, snippet, words}], those with the words in their title first, then newest first. */
export function search(query, conversations, messages) {
  const words = query.toLowerCase().split(/\s+/).filter(Boolean);
  const texts = new Map(conversations.map(({ id }) => [id, []]));
  for (const { conversation, content } of messages) if (typeof content === "string") texts.get(conversation)?.push(content);
  const found = [];
  for (const conversation of conversations) {
    const title = conversation.title.toLowerCase();
    const missing = words.filter((word) => !title.includes(word));
    const all = texts.get(conversation.id);
    const lower = missing.length > 0 ? all.map((text) => text.toLowerCase()) : [];
    if (!missing.every((word) => lower.some((text) => text.includes(word)))) continue;
    const place = lower.findIndex((text) => text.includes(missing[0]));
    found.push({ conversation, words, snippet: place < 0 ? "" : around(all[place], missing[0]), isTitle: place < 0 });
  }
  return found.sort((one, other) => other.isTitle - one.isTitle);
}

function around(text, word) {
  const start = Math.max(0, text.toLowerCase().indexOf(word) - AROUND);
  const piece = text.slice(start, start + 4 * AROUND).replace(/\s+/g, " ");
  return (start > 0 ? "…" : "") + piece;
}

/** [[text, isFound]]: the pieces of a text, cut at the found words. */
export function marked(text, words) {
  const lower = text.toLowerCase();
  const pieces = [];
  let at = 0;
  while (lower.length === text.length && at < text.length) { // some letters change their length: then nothing is marked
    const hits = words.map((word) => [lower.indexOf(word, at), word.length]).filter(([place]) => place >= 0);
    if (hits.length === 0) break;
    const [place, length] = hits.sort((one, other) => one[0] - other[0] || other[1] - one[1])[0];
    pieces.push([text.slice(at, place), false], [text.slice(place, place + length), true]);
    at = place + length;
  }
  return [...pieces, [text.slice(at), false]].filter(([piece]) => piece);
}
