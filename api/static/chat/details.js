// <details> in an answer: its content is Markdown that has a view of its own, which keeps what is drawn while more streams in.

import { h } from "./dom.js";

const OPENING = /^ {0,3}<details(?=[\s>])([^>]*)>/i;
const MARKS = /^ {0,3}(`{3,}|~{3,})([^\n]*)|<(\/?)details\b[^>]*>/gim; // a fence of code, or a tag
const SUMMARY = /^\s*<summary(?:\s[^>]*)?>([\s\S]*?)(?:<\/summary>|$)/i;
const views = new WeakMap(); // frame -> DetailsView

/** Where the content ends, and where what follows begins. Tags in code do not count. */
function closing(source) {
  let [depth, fence] = [0, ""];
  for (const { 0: raw, 1: mark, 2: rest, 3: slash, index } of source.matchAll(MARKS)) {
    if (mark && !fence) fence = mark;
    else if (mark && mark.startsWith(fence) && !rest.trim()) fence = "";
    if (mark || fence) continue;
    depth += slash ? -1 : 1;
    if (depth === 0) return [index, index + raw.length];
  }
  return [whole(source, "</details").length, source.length];
}

/** The text without the start of this tag at its end, which is still streaming. */
function whole(text, tag) {
  const at = text.lastIndexOf("<");
  return at >= 0 && tag.startsWith(text.slice(at).toLowerCase()) ? text.slice(0, at) : text;
}

export const detailsExtension = {
  name: "details",
  level: "block",
  start: (source) => /\n(?= {0,3}<details\b)/i.exec(source)?.index + 1 || undefined,
  tokenizer(source) {
    const opening = OPENING.exec(source);
    if (!opening) return undefined;
    const [end, after] = closing(source);
    const content = whole(source.slice(opening[0].length, Math.max(end, opening[0].length)), "<summary");
    const summary = SUMMARY.exec(content);
    const title = summary?.[1].trim() || "Details";
    const { links } = this.lexer.tokens;
    const tail = /^[ \t]*\n*/.exec(source.slice(after))[0];
    return {
      type: "details",
      raw: source.slice(0, after) + tail,
      text: content.slice(summary?.[0].length ?? 0),
      isOpen: /\bopen\b/i.test(opening[1]),
      title,
      tokens: this.lexer.inline(title, []),
      links,
      depth: this.lexer.depth,
    };
  },
  renderer({ tokens }) {
    return `<details><summary>${this.parser.parseInline(tokens)}</summary></details>\n`; // filled by draw()
  },
};

export class DetailsView {
  /** `summary`: its element. `newView` makes a MarkdownView in an element, at a depth. */
  constructor({ title, isOpen, depth }, summary, newView) {
    this.title = title;
    const content = h("div", { class: "content" });
    this.frame = h("details", { class: "fold", open: isOpen }, summary, content);
    this.view = newView(content, depth + 1);
    views.set(this.frame, this);
  }

  static of(frame) {
    return views.get(frame);
  }

  /** Whether this one shows the start of that: it may go on with it. */
  mayBecome({ title, text }) {
    return title === this.title && text.startsWith(this.view.text);
  }

  update({ text, links }, milliseconds) {
    this.view.outer = links;
    this.isWhole = this.view.update(text, milliseconds);
  }
}
