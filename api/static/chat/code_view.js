// A block of code. What streams is appended in place; the colours come from a worker.

import { h, icon } from "./dom.js";

const LINES = 50; // of a piece, as in highlighter.js
const MAX_HIGHLIGHT = 200_000; // characters
const PIECES_A_FRAME = 3;
const views = new WeakMap(); // frame -> CodeView

export class CodeView {
  constructor(language) {
    this.language = language;
    this.text = "";
    this.pieces = []; // {text, element, html}
    this.code = h("code", { class: language ? `language-${language}` : null });
    const copy = h("button", { type: "button", class: "quiet", "data-copy": "code", "aria-label": "Copy code" }, icon("copy"));
    const name = language ? `Code in ${language}` : "Code";
    const pre = h("pre", { tabindex: "0", role: "group", "aria-label": name }, this.code);
    this.frame = h("div", { class: "code" }, h("div", { class: "code-head" }, h("span", {}, language), copy), pre);
    views.set(this.frame, this);
  }

  static of(frame) {
    return views.get(frame);
  }

  /** Whether this block shows the start of that text: it may go on with it. */
  mayBecome(language, text) {
    return language === this.language && text.startsWith(this.text);
  }

  update(text) {
    if (text === this.text) return;
    this.text = text;
    const texts = split(text);
    texts.forEach((piece, index) => this.setPiece(index, piece));
    for (const { element } of this.pieces.splice(texts.length)) element.remove();
    if (this.language && text.length < MAX_HIGHLIGHT) highlighter.ask(this);
  }

  setPiece(index, text) {
    const piece = (this.pieces[index] ??= this.newPiece());
    if (piece.text === text) return;
    const added = text.startsWith(piece.text) ? text.slice(piece.text.length) : null;
    if (added === null) piece.element.replaceChildren(text);
    else if (piece.element.lastChild?.nodeType === Node.TEXT_NODE) piece.element.lastChild.appendData(added);
    else piece.element.append(added);
    Object.assign(piece, { text, html: null });
  }

  newPiece() {
    const element = h("span", { class: "lines" });
    this.code.append(element);
    return { text: "", element, html: null };
  }

  /** `coloured`: HTML of the pieces of `text`, which may have grown since. */
  async paint(coloured, text) {
    let painted = 0;
    for (const [index, part] of split(text).entries()) {
      const piece = this.pieces[index];
      if (!piece?.text.startsWith(part) || piece.html === coloured[index]) continue;
      piece.element.innerHTML = coloured[index];
      if (piece.text.length > part.length) piece.element.append(piece.text.slice(part.length));
      else piece.html = coloured[index];
      painted += 1;
      if (painted % PIECES_A_FRAME === 0) await new Promise(requestAnimationFrame);
    }
  }
}

/** The text in pieces of 50 lines. */
function split(text) {
  const found = [];
  for (let from = 0; from < text.length || found.length === 0; ) {
    let end = from;
    for (let line = 0; line < LINES && end < text.length; line += 1) end = text.indexOf("\n", end) + 1 || text.length;
    found.push(text.slice(from, end));
    from = end;
  }
  return found;
}

/** Asks the worker for the colours of one block at a time, and rests twice as long as it worked. */
class Highlighter {
  waiting = new Set();
  isBusy = false;

  ask(view) {
    this.waiting.add(view);
    if (!this.isBusy) this.next();
  }

  next() {
    const [view] = this.waiting;
    this.isBusy = view !== undefined;
    if (!this.isBusy) return;
    this.waiting.delete(view);
    const { language, text } = view;
    const begun = performance.now();
    this.worker ??= new Worker(new URL("./highlighter.js", import.meta.url), { type: "module" });
    this.worker.onmessage = async ({ data }) => {
      const took = performance.now() - begun;
      if (data) await view.paint(data, text);
      setTimeout(() => this.next(), 2 * took);
    };
    this.worker.onerror = () => this.waiting.clear(); // code stays without colours
    this.worker.postMessage({ language, text });
  }
}

const highlighter = new Highlighter();
