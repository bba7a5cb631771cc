// `[^1]` in the text and `[^1]: …` on a line of its own, as GitHub has them. A note is kept among a text's links, so that what refers to it is drawn again when it comes.

import { h } from "./dom.js";

const NAME = String.raw`\[\^([^\]\s]{1,64})\]`;
const REFERENCE = new RegExp(`^${NAME}(?!:)`);
const OPENING = new RegExp(`^ {0,3}${NAME}:[ \\t]*`);
const START = new RegExp(`\\n(?= {0,3}${NAME}:)`);

const keyOf = (name) => `^${name.toLowerCase().toUpperCase().toLowerCase()}`; // as marked names links

/** The notes at the very start of a text, with their further lines, which are indented or follow at once. */
function notesAt(source) {
  const notes = [];
  let [end, blanks] = [0, ""];
  for (let from = 0; from < source.length; ) {
    const to = source.indexOf("\n", from) + 1 || source.length;
    const line = source.slice(from, to);
    const opening = OPENING.exec(line);
    from = to;
    if (!line.trim()) {
      blanks += "\n";
      continue;
    }
    if (opening) notes.push({ type: "footnote", key: keyOf(opening[1]), text: line.slice(opening[0].length) });
    else if (notes.length === 0 || (blanks && !/^(?: {2}|\t)/.test(line))) break;
    else notes.at(-1).text += blanks + line.replace(/^(?: {1,4}|\t)/, "");
    [end, blanks] = [from, ""];
  }
  return { notes, raw: source.slice(0, end) };
}

/** Notes are numbered as they are written down: {number} by the key of a link. */
function number(links, key) {
  return (links[key] ??= { number: 1 + Object.keys(links).filter((name) => name.startsWith("^")).length }).number;
}

export const footnoteExtensions = [
  {
    name: "footnotes",
    level: "block",
    childTokens: ["notes"],
    start: (source) => START.exec(source)?.index + 1 || undefined,
    tokenizer(source) {
      if (!OPENING.test(source)) return undefined;
      const { notes, raw } = notesAt(source);
      for (const note of notes) note.number = number(this.lexer.tokens.links, note.key);
      for (const note of notes) note.tokens = this.lexer.blockTokens(note.text, []);
      return { type: "footnotes", raw, notes };
    },
    renderer({ notes }) {
      return `<ol class="footnotes">${notes.map(({ number, tokens }) => `<li value="${number}">${this.parser.parse(tokens)}</li>`).join("")}</ol>\n`;
    },
  },
  {
    name: "reference",
    level: "inline",
    start: (source) => source.indexOf("[^"),
    tokenizer(source) {
      const found = REFERENCE.exec(source);
      const note = found && this.lexer.tokens.links[keyOf(found[1])];
      return note ? { type: "reference", raw: found[0], number: note.number } : undefined;
    },
    renderer: ({ number }) => `<sup class="reference">${number}</sup>`,
  },
];

function go(from, selector) {
  const target = from.closest(".body")?.querySelector(selector);
  target?.focus({ preventScroll: true });
  target?.scrollIntoView({ block: "nearest" });
}

/** Makes buttons of the numbers: to a note, and from it back to where it was first referred to. */
export function linkNotes(part) {
  for (const mark of part.querySelectorAll("sup.reference")) {
    const number = mark.textContent;
    const onclick = ({ target }) => go(target, `.footnotes > [value="${number}"]`);
    mark.replaceChildren(h("button", { type: "button", class: "quiet", "data-note": number, "aria-label": `Footnote ${number}`, onclick }, number));
  }
  for (const note of part.querySelectorAll(".footnotes > li")) {
    const onclick = ({ target }) => go(target, `.reference [data-note="${note.value}"]`);
    const back = h("button", { type: "button", class: "quiet", "aria-label": `Back from footnote ${note.value}`, onclick }, "↩");
    note.tabIndex = -1;
    (note.lastElementChild?.tagName === "P" ? note.lastElementChild : note).append(" ", back);
  }
}
