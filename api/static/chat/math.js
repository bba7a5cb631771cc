// LaTeX in an answer: `$…$`, `\(…\)`, `$$…$$`, `\[…\]`, `\begin{align}…\end{align}` and blocks of ```math. KaTeX is loaded when the first one appears.

const FRAME_MS = 12; // of formulas that waited for KaTeX
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

class Typesetter {
  katex = null;
  waiting = new Set(); // elements drawn before KaTeX was there

  /** Replaces the sources in a part of the page by formulas, now or when KaTeX is loaded. */
  take(part) {
    for (const code of part.querySelectorAll("code.math")) {
      if (this.katex) this.set(code);
      else this.waiting.add(code);
    }
    if (this.waiting.size > 0) this.loading ??= this.load();
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
    let until = performance.now() + FRAME_MS;
    for (const code of this.waiting) {
      this.set(code);
      if (performance.now() < until) continue;
      await new Promise(requestAnimationFrame);
      until = performance.now() + FRAME_MS;
    }
    this.waiting.clear();
  }

  set(code) {
    const displayMode = code.classList.contains("display");
    const span = document.createElement("span");
    span.className = displayMode ? "formula display" : "formula";
    try {
      this.katex.render(code.textContent, span, { displayMode, strict: "ignore", maxExpand: 500, maxSize: 20 });
      code.replaceWith(span);
    } catch {
      code.title = "This LaTeX cannot be set."; // the source stays
    }
  }
}

const typesetter = new Typesetter();

export const typeset = (part) => typesetter.take(part);
