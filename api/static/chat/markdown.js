// A model's Markdown as safe elements. During a stream only changed blocks are rebuilt.

import hljs from "../vendor/highlight.js";
import { Lexer, Marked } from "../vendor/marked.js";
import DOMPurify from "../vendor/purify.js";
import { h, icon } from "./dom.js";

const MAX_HIGHLIGHT = 50_000; // characters; highlighting more takes too long

const MAX_DEPTH = 32; // of nested quotes, lists and emphasis; deeper ones are shown as text

const escape = (text) => text.replace(/[&<>"']/g, (mark) => `&#${mark.charCodeAt(0)};`);

const marked = new Marked({
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text }) => escape(text), // HTML in an answer is shown as text
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text || href)}</a>`, // images are not loaded
  },
});

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
    "p br hr a strong em del code pre blockquote ul ol li h1 h2 h3 h4 h5 h6 table thead tbody tr th td input span sup sub"
  ).split(" "),
  ALLOWED_ATTR: ["href", "title", "class", "align", "start", "type", "checked", "disabled"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i, // of every attribute that the next line does not name
  ADD_URI_SAFE_ATTR: ["align", "start", "type"],
  RETURN_DOM_FRAGMENT: true,
};

/** Markdown -> DocumentFragment without anything that runs or loads. */
function render(tokens) {
  const fragment = DOMPurify.sanitize(marked.parser(tokens), ALLOWED);
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
  }
  for (const box of fragment.querySelectorAll("input")) {
    if (box.type === "checkbox") box.disabled = true;
    else box.remove();
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" });
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const pre of fragment.querySelectorAll("pre")) frameCode(pre);
  return fragment;
}

function frameCode(pre) {
  const code = pre.querySelector("code") ?? pre;
  const language = /language-([\w+#.-]+)/.exec(code.className)?.[1] ?? "";
  if (hljs.getLanguage(language) && code.textContent.length < MAX_HIGHLIGHT) {
    code.innerHTML = hljs.highlight(code.textContent, { language }).value; // escapes its input
  }
  pre.tabIndex = 0;
  const copy = h("button", { type: "button", class: "quiet", "data-copy": "code", "aria-label": "Copy code" }, icon("copy"));
  const frame = h("div", { class: "code" }, h("div", { class: "code-head" }, h("span", {}, language), copy));
  pre.replaceWith(frame);
  frame.append(pre);
}

export class MarkdownView {
  constructor(element) {
    this.element = element;
    this.blocks = []; // {raw, type, nodes}: what is on the page, in order
    this.links = "{}"; // "[name]: address" lines, which blocks above them may use
  }

  update(text) {
    const tokens = new BoundedLexer(marked.defaults).lex(text);
    const links = JSON.stringify(tokens.links);
    if (links !== this.links) {
      this.element.replaceChildren();
      this.blocks = [];
      this.links = links;
    }
    tokens.forEach((token, index) => this.place(token, index, tokens.links));
    for (const { nodes } of this.blocks.splice(tokens.length)) nodes.forEach((node) => node.remove());
  }

  place(token, index, links) {
    const old = this.blocks[index];
    if (old?.raw === token.raw && old.type === token.type) return;
    const fragment = render(Object.assign([token], { links }));
    const nodes = [...fragment.childNodes];
    const after = old?.nodes[0] ?? this.blocks.slice(index + 1).find((block) => block.nodes.length)?.nodes[0] ?? null;
    this.element.insertBefore(fragment, after);
    old?.nodes.forEach((node) => node.remove());
    this.blocks[index] = { raw: token.raw, type: token.type, nodes };
  }
}
