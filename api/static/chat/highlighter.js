// A worker that colours code, so that the page never waits for it.

import hljs from "../vendor/highlight.js";

const LINES = 50; // of a piece

/** HTML cut after every 50th line; what is open there is closed, and opened again in the next piece. */
function pieces(html) {
  const lines = html.split("\n");
  const open = [];
  const found = [];
  for (let at = 0; at < lines.length; at += LINES) {
    const end = at + LINES < lines.length ? "\n" : "";
    const body = lines.slice(at, at + LINES).join("\n") + end;
    const before = open.join("");
    for (const [tag] of body.matchAll(/<\/?span[^>]*>/g)) {
      if (tag === "</span>") open.pop();
      else open.push(tag);
    }
    found.push(before + body + "</span>".repeat(open.length));
  }
  return found;
}

self.onmessage = ({ data: { language, text } }) => {
  const isKnown = hljs.getLanguage(language);
  self.postMessage(isKnown ? pieces(hljs.highlight(text, { language }).value) : null); // it escapes its input
};
