// A model's Markdown as safe elements. During a stream only changed blocks are rebuilt.

import { Lexer, Marked } from "../vendor/marked.js";
import DOMPurify from "../vendor/purify.js";
import { CodeView } from "./code_view.js";
import { DetailsView, detailsExtension } from "./details.js";
import { h } from "./dom.js";
import { footnoteExtensions, linkNotes } from "./footnotes.js";
import { formula, masked, mathExtensions, typeset } from "./math.js";

const MANY_FORMULAS = 100; // each has hundreds of elements: blocks with them are laid out and painted only near the window
const MAX_DEPTH = 32; // of nested quotes, lists and emphasis; deeper ones are shown as text

const PLAIN_TAG = /^\s*<(?:br\s*\/?|\/?(?:sub|sup|kbd|b|i|u|s|strong|em|mark|small))>\s*$/i; // those that models write, without attributes

const escape = (text) => text.replace(/[&<>"']/g, (mark) => `&#${mark.charCodeAt(0)};`);

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => (PLAIN_TAG.test(text) ? text : escape(text)), // other HTML in an answer is shown as text
    code: (token) => (isFormula(token) ? `<p>${formula(token.text, true)}</p>` : "<pre></pre>"), // filled by draw()
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`, // images are not loaded
  },
  extensions: [...mathExtensions, ...footnoteExtensions, detailsExtension],
  hooks: { emStrongMask: masked },
});

const languageOf = ({ lang }) => /^[\w+#.-]+/.exec(lang ?? "")?.[0] ?? "";
const isFormula = (token) => languageOf(token) === "math";

class BoundedLexer extends Lexer {
  depth = 0;

  blockTokens(text, tokens = [], ...rest) {
    return this.deeper(text, tokens, () => super.blockTokens(text, tokens, ...rest));
  }

  inlineTokens(text, tokens = []) {
    return this.deeper(text, tokens, () => super.inlineTokens(text, tokens));
  }

  deeper(text, tokens, read) {
    if (this.depth >= MAX_DEPTH) {
      tokens.push({ type: "text", raw: text, text, escaped: false });
      return tokens;
    }
    this.depth += 1;
    try {
      return read();
    } finally {
      this.depth -= 1;
    }
  }
}

const ALLOWED = {
  ALLOWED_TAGS: (
    "p br hr a strong em del code pre blockquote ul ol li h1 h2 h3 h4 h5 h6 table thead tbody tr th td input span sup sub kbd b i u s mark small details summary"
  ).split(" "),
  ALLOWED_ATTR: ["href", "title", "class", "align", "start", "type", "value", "checked", "disabled"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i, // of every attribute that the next line does not name
  ADD_URI_SAFE_ATTR: ["align", "start", "type", "value"],
  RETURN_DOM_FRAGMENT: true,
};

/** Elements in these nodes, but for those that a view in them has made. */
function own(nodes, selector) {
  const isOwn = (node, element) => !node.contains(element.parentElement.closest(".content") ?? document);
  return nodes.flatMap((node) => [...(node.querySelectorAll?.(selector) ?? [])].filter((element) => isOwn(node, element)));
}

/** Tokens -> a fragment without anything that runs or loads. Code and details of `old` nodes that only grew move into it. */
function draw(tokens, old = [], milliseconds = Infinity) {
  const [keptCode, keptDetails] = [own(old, ".code"), own(old, "details")];
  const fragment = DOMPurify.sanitize(marked.parser(tokens), ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const box of fragment.querySelectorAll("input")) {
    if (box.type !== "checkbox") box.remove();
    box.closest("li")?.classList.add("task");
    box.disabled = true;
    box.setAttribute("aria-label", box.checked ? "Done" : "To do");
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" });
    table.replaceWith(frame);
    frame.append(table);
  }
  const [codes, details] = [[], []];
  marked.walkTokens(tokens, (token) => {
    if (token.type === "code" && !isFormula(token)) codes.push(token);
    if (token.type === "details") details.push(token);
  });
  fragment.querySelectorAll("pre").forEach((pre, index) => {
    const view = codeView(codes[index], keptCode[index]);
    view.update(codes[index].text);
    pre.replaceWith(view.frame);
  });
  linkNotes(fragment);
  fragment.querySelectorAll("details").forEach((element, index) => {
    const view = detailsView(details[index], element.firstElementChild, keptDetails[index]);
    element.replaceWith(view.frame);
    view.update(details[index], milliseconds);
  });
  for (const node of fragment.children) markFormulas(node);
  typeset(fragment);
  return fragment;
}

function markFormulas(node) {
  if (node.querySelector("code.math, .formula")) node.classList.add("formulas");
}

function codeView(token, frame) {
  const old = frame && CodeView.of(frame);
  return old?.mayBecome(languageOf(token), token.text) ? old : new CodeView(languageOf(token));
}

function detailsView(token, summary, frame) {
  const old = frame && DetailsView.of(frame);
  if (old?.mayBecome(token)) return old;
  return new DetailsView(token, summary, (element, depth) => new MarkdownView(element, depth));
}

/** What is on the page of one token. `take` shows the token's next state, if it can. */
class Block {
  constructor(token, old = [], milliseconds = Infinity) {
    this.type = token.type;
    this.isWhole = true;
    this.isStale = false; // a link that it uses leads elsewhere now
    this.raw = token.raw;
    this.fragment = draw([token], old, milliseconds);
    this.nodes = [...this.fragment.childNodes];
  }

  take(token) {
    return !this.isStale && token.type === this.type && token.raw === this.raw;
  }

  /** Whether the source uses one of these links. */
  mentions(names) {
    const source = this.raw.replace(/\s+/g, " ").toLowerCase().toUpperCase().toLowerCase(); // as marked names links
    return names.some((name) => source.includes(`[${name}]`));
  }
}

class CodeBlock extends Block {
  constructor(token, old) {
    super(token, old);
    this.view = CodeView.of(this.nodes[0]);
  }

  take(token) {
    if (token.type !== "code" || languageOf(token) !== this.view.language) return false;
    this.raw = token.raw;
    this.view.update(token.text);
    return true;
  }
}

class DetailsBlock extends Block {
  constructor(token, old = [], milliseconds = Infinity) {
    super(token, old, milliseconds);
    this.view = DetailsView.of(this.nodes[0]);
    this.isWhole = this.view.isWhole;
    if (old[0] && DetailsView.of(old[0])) this.nodes[0].open = old[0].open;
  }

  take(token, milliseconds) {
    if (this.isStale || token.type !== this.type || !this.view.mayBecome(token)) return false;
    this.raw = token.raw;
    this.view.update(token, milliseconds);
    this.isWhole = this.view.isWhole;
    return true;
  }
}

/** A list or a table: only the items or rows that changed are drawn anew. */
class Rows extends Block {
  constructor(token, old) {
    super(token, old);
    this.head = Rows.headOf(token);
    this.keys = Rows.partsOf(token).map(Rows.keyOf);
    this.parent = token.type === "list" ? this.nodes[0] : this.nodes[0].querySelector("tbody");
  }

  static partsOf = (token) => token.items ?? token.rows;
  static keyOf = (part) => part.raw ?? part.map(({ text }) => text).join("\0");

  /** All but the parts themselves: when it changes, everything is drawn anew. */
  static headOf({ type, ordered, start, loose, header, align }) {
    return JSON.stringify([type, ordered, start, loose, header?.map(({ text }) => text), align]);
  }

  take(token) {
    if (this.isStale || token.type !== this.type || Rows.headOf(token) !== this.head || !this.parent) return false;
    if (token.raw === this.raw) return true;
    const parts = Rows.partsOf(token);
    parts.forEach((part, index) => this.place(token, part, index));
    while (this.parent.children.length > parts.length) this.parent.lastElementChild.remove();
    markFormulas(this.nodes[0]);
    this.keys.length = parts.length;
    this.raw = token.raw;
    return true;
  }

  place(token, part, index) {
    const key = Rows.keyOf(part);
    if (this.keys[index] === key) return;
    const old = this.parent.children[index];
    const one = draw([{ ...token, [token.items ? "items" : "rows"]: [part] }], old ? [old] : []);
    const row = one.querySelector(token.items ? "li" : "tbody > tr");
    if (old) old.replaceWith(row);
    else this.parent.append(row, "\n");
    this.keys[index] = key;
  }
}

function newBlock(token, old, milliseconds) {
  if (token.type === "details") return new DetailsBlock(token, old, milliseconds);
  if (token.type === "list" || token.type === "table") return new Rows(token, old);
  return token.type === "code" && !isFormula(token) ? new CodeBlock(token, old) : new Block(token, old);
}

export class MarkdownView {
  /** `depth`: of the element, as in BoundedLexer. */
  constructor(element, depth = 0) {
    Object.assign(this, { element, depth });
    this.outer = {}; // links of the text around this one
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.text = "";
    this.blocks = []; // what is on the page, in order
    this.links = {}; // "[name]: address" lines, which blocks above them may use
    this.pending = null; // {text, tokens, num}: a text of which the first tokens are on the page
    this.settle([]);
  }

  /** Draws until it is done or `milliseconds` have passed; returns whether it is done. Call it again with the next frame. */
  update(source, milliseconds = Infinity) {
    const text = source.replace(/\r\n?/g, "\n");
    if (text === this.text) return true;
    if (this.pending?.text !== text) this.begin(text);
    const { tokens } = this.pending;
    const from = this.pending.num;
    const first = this.settled.blocks;
    const until = performance.now() + milliseconds;
    let [num, isDrawn] = [from, false];
    while (num < tokens.length && !(isDrawn && performance.now() >= until)) {
      isDrawn = this.place(tokens[num], first + num, until - performance.now()) || isDrawn;
      if (!this.blocks[first + num].isWhole) break;
      num += 1;
    }
    this.pending.num = num;
    if (num < tokens.length) return false;
    this.text = text;
    this.pending = null;
    for (const { nodes } of this.blocks.splice(first + num)) nodes.forEach((node) => node.remove());
    this.settle(tokens);
    return true;
  }

  /** Reads a text that has grown, or another one. */
  begin(text) {
    if (this.pending) {
      this.text = this.pending.text;
      this.settle(this.pending.tokens.slice(0, this.pending.num));
      this.text = this.text.slice(0, this.settled.length);
    }
    if (!text.startsWith(this.text)) this.clear();
    let tokens = this.read(text);
    const changed = differing(this.links, tokens.links);
    if (changed.length > 0) {
      this.settle([]);
      tokens = this.read(text);
      for (const block of this.blocks) block.isStale ||= block.mentions(changed);
    }
    this.links = tokens.links;
    this.pending = { text, tokens, num: 0 };
  }

  /** The tokens after the settled ones. */
  read(text) {
    const lexer = new BoundedLexer(marked.defaults);
    lexer.depth = this.depth;
    Object.assign(lexer.tokens.links, this.outer, this.settled.links);
    return lexer.lex(text.slice(this.settled.length));
  }

  /** Whether it had to be drawn anew. */
  place(token, index, milliseconds) {
    const old = this.blocks[index];
    if (old?.take(token, milliseconds)) return false;
    const block = newBlock(token, old?.nodes, milliseconds);
    const after = old?.nodes[0] ?? this.blocks.slice(index + 1).find(({ nodes }) => nodes.length)?.nodes[0] ?? null;
    this.element.insertBefore(block.fragment, after);
    old?.nodes.forEach((node) => node.remove());
    this.blocks[index] = block;
    return true;
  }

  /** The last three blocks may still change: a list goes on after a paragraph that turns out to be its next item. */
  settle(tokens) {
    if (tokens.length === 0) this.settled = { blocks: 0, length: 0, formulas: 0, links: {} };
    const solid = tokens.map(({ type }, index) => ({ type, index })).filter(({ type }) => type !== "space");
    const done = tokens.slice(0, solid.at(-3)?.index ?? 0);
    for (const { raw } of done) this.settled.length += raw.length;
    marked.walkTokens(done, ({ type, tag, href, title, key, number }) => {
      if (type === "def") this.settled.links[tag] ??= { href, title };
      if (type === "footnote") this.settled.links[key] ??= { number };
      if (type === "formula" || type === "formulas") this.settled.formulas += 1;
    });
    this.settled.blocks += done.length;
    if (this.settled.formulas > MANY_FORMULAS) this.element.classList.add("many-formulas");
  }
}

/** Names of the links that are in one of two sets only, or lead elsewhere. */
function differing(old, links) {
  const names = new Set([...Object.keys(old), ...Object.keys(links)]);
  return [...names].filter((name) => JSON.stringify(old[name]) !== JSON.stringify(links[name]));
}
