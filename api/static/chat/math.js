// LaTeX in an answer: `$…$`, `\(…\)`, `$$…$$`, `\[…\]`, `\begin{align}…\end{align}` and blocks of ```math. KaTeX is loaded when the first one appears.

const FRAME_MS = 2; // of formulas that were not set before
const MAX_MADE = 1000; // formulas that are kept
const MAX_LENGTH = 5000; // characters of one formula
const DOLLAR = /(?<![\w$\\])\$(?!\s)/; // one that may open a formula: neither US$5 nor "$ 5"
const CLOSERS = { "\\(": "\\)", "\\[": "\\]", $$: "$$" };

const ENVIRONMENT = /^\\begin\{((?:equation|align|gather|alignat|multline|CD)\*?)\}/; // stands without dollars

/** A formula at the very start of a text: {raw, text, isDisplay}. */
function formulaAt(source) {
  const opener = source.slice(0, 2);
  const environment = ENVIRONMENT.exec(source)?.[1];
  if (environment) return inEnvironment(source, environment);
  if (opener in CLOSERS) return between(source, opener, CLOSERS[opener]);
  return source[0] === "$" && DOLLAR.test(source.slice(0, 2)) ? between(source, "$", "$") : undefined;
}

function inEnvironment(source, name) {
  const closer = `\\end{${name}}`;
  const end = source.slice(0, MAX_LENGTH).indexOf(closer);
  const raw = source.slice(0, end + closer.length);
  return end < 0 || /\n[ \t]*\n/.test(raw) ? undefined : { raw, text: raw, isDisplay: true };
}

function between(source, opener, closer) {
  const part = source.slice(0, MAX_LENGTH);
  const end = closingAt(part, opener.length, closer);
  const text = part.slice(opener.length, end);
  if (end < 0 || !text.trim() || /\n[ \t]*\n/.test(text)) return undefined;
  if (opener === "$" && (/\s$/.test(text) || /^\w/.test(part.slice(end + 1)))) return undefined; // prices: $5 and $6
  return { raw: part.slice(0, end + closer.length), text: text.trim(), isDisplay: opener === "$$" || opener === "\\[" };
}

/** The place of the closer; a `\$` in the formula is none. */
function closingAt(text, from, closer) {
  let at = text.indexOf(closer, from);
  while (closer[0] === "$" && at > 0 && text[at - 1] === "\\") at = text.indexOf(closer, at + 1);
  return at;
}

/** Where a formula may begin, counted to the end of the match. */
const foundBy = (pattern) => (source) => {
  const found = pattern.exec(source);
  return found ? found.index + found[0].length : undefined;
};

/** The text with its formulas blotted out, for marked's search for emphasis: `**$x^*$**` is bold as a whole. */
export function masked(text) {
  let found = "";
  for (let at = 0; at < text.length; ) {
    const formula = text[at] === "$" ? formulaAt(text.slice(at, at + MAX_LENGTH)) : undefined;
    found += formula ? "a".repeat(formula.raw.length) : text[at];
    at += formula ? formula.raw.length : 1;
  }
  return found;
}

const escape = (text) => text.replace(/[&<>]/g, (mark) => `&#${mark.charCodeAt(0)};`);

/** HTML of a formula until it is typeset: its source. */
export const formula = (text, isDisplay) => `<code class="math${isDisplay ? " display" : ""}">${escape(text)}</code>`;

/** For marked: a formula is read before Markdown sees the marks in it. */
export const mathExtensions = [
  {
    name: "formulas",
    level: "block",
    start: foundBy(/\n(?= {0,3}(?:\$\$|\\\[|\\begin\{))/),
    tokenizer(source) {
      const indent = /^ {0,3}(?=\$\$|\\\[|\\begin\{)/.exec(source)?.[0];
      const found = indent !== undefined && formulaAt(source.slice(indent.length));
      const line = found && /^[ \t]*(?:\n|$)/.exec(source.slice(indent.length + found.raw.length));
      return line ? { type: "formulas", ...found, raw: indent + found.raw + line[0] } : undefined;
    },
    renderer: ({ text }) => `<p>${formula(text, true)}</p>\n`,
  },
  {
    name: "formula",
    level: "inline",
    start: foundBy(/(?=(?<![\w$\\])\$(?!\s)|\\[([]|\\begin\{)/),
    tokenizer(source) {
      const found = formulaAt(source);
      return found && { type: "formula", ...found };
    },
    renderer: ({ text, isDisplay }) => formula(text, isDisplay),
  },
];

/** Sets formulas for a few milliseconds a frame; those that wait show their source. One that was set before is copied, at once. */
class Typesetter {
  katex = null;
  made = new Map(); // source -> its element, or null if it cannot be set; those of an answer, which is drawn again as it grows
  waiting = new Set(); // elements that show their source
  left = FRAME_MS; // of this frame

  /** Replaces the sources in a part of the page by formulas, now or soon. */
  take(part) {
    for (const code of part.querySelectorAll("code.math")) {
      if (this.made.has(keyOf(code)) || (this.katex && this.left > 0)) this.set(code);
      else this.waiting.add(code);
    }
    if (this.waiting.size > 0) this.goOn();
  }

  goOn() {
    if (!this.katex) this.loading ??= this.load();
    else this.rest();
  }

  async load() {
    const folder = new URL("../vendor/katex/", import.meta.url);
    const style = document.createElement("link");
    Object.assign(style, { rel: "stylesheet", href: new URL("katex.min.css", folder) });
    document.head.append(style);
    try {
      await import(new URL("katex.min.js", folder)); // not a module: it leaves its name in the window
    } catch {
      this.loading = null; // offline: the sources stay, and the next formula tries again
      return;
    }
    this.katex = window.katex;
    this.rest();
  }

  /** With the next frame there is time again. */
  rest() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.left = FRAME_MS;
      for (const code of this.waiting) {
        if (this.left <= 0) break;
        this.waiting.delete(code);
        if (code.parentNode) this.set(code); // else it was drawn again
      }
    });
  }

  set(code) {
    const key = keyOf(code);
    if (!this.made.has(key)) this.make(key, code);
    const element = this.made.get(key);
    if (element) code.replaceWith(element.cloneNode(true));
    else code.title = "This LaTeX cannot be set."; // the source stays
  }

  make(key, code) {
    const begun = performance.now();
    const displayMode = code.classList.contains("display");
    const span = document.createElement("span");
    span.className = displayMode ? "formula display" : "formula";
    if (displayMode) span.tabIndex = 0; // a long one is scrolled by keys
    if (this.made.size === MAX_MADE) this.made.delete(this.made.keys().next().value);
    try {
      this.katex.render(code.textContent, span, { displayMode, strict: "ignore", maxExpand: 500, maxSize: 20 });
      this.made.set(key, span);
    } catch {
      this.made.set(key, null);
    }
    this.left -= performance.now() - begun;
    this.rest();
  }
}

const keyOf = (code) => code.className + code.textContent;

const typesetter = new Typesetter();

export const typeset = (part) => typesetter.take(part);
