// How many tokens a request has: guessed from its characters, and set right by what the server counted for the answer before.

import { worthSending } from "./fold.js";
import { OPTIONS } from "./options.js";

const OF_A_MESSAGE = 6; // its role and the marks around it
const OF_AN_IMAGE = 800; // models differ: 250 to 2,500
const SMALL = 300; // tokens: up to here a wrong guess is the template's, beyond it the text's
const MOST_WRONG = 4; // times
const DEFAULT_ANSWER = OPTIONS.find(({ name }) => name === "max_tokens").fallback;

/** About right for most models and languages. */
function guess(text) {
  let [latin, wide] = [0, 0];
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (code < 0x250) latin += 1;
    else if (code >= 0x2e80) wide += 1; // Chinese, Japanese, Korean, emoji
  }
  return latin / 4 + wide + (text.length - latin - wide) / 2;
}

/** Tokens that an answer should have at least, where the request leaves that open. */
export const roomForAnswer = (context, { max_tokens }) => Math.min(Number(max_tokens || DEFAULT_ANSWER), Math.floor(context / 4));

export class Sizes {
  constructor() {
    this.known = new WeakMap(); // message or file -> {text, tokens}
  }

  ofText(owner, text) {
    const known = this.known.get(owner);
    if (known?.text === text) return known.tokens;
    const tokens = guess(text);
    this.known.set(owner, { text, tokens });
    return tokens;
  }

  ofFile(file, isTextOnly) {
    if (file.kind === "text") return this.ofText(file, file.text);
    return isTextOnly ? OF_A_MESSAGE : OF_AN_IMAGE;
  }

  ofMessage(message, isTextOnly) {
    const { content, attachments = [], toolCalls = [] } = message;
    const files = attachments.map((file) => this.ofFile(file, isTextOnly));
    const calls = toolCalls.map((call) => guess(call.name + call.arguments));
    return [...files, ...calls].reduce((sum, tokens) => sum + tokens, OF_A_MESSAGE + this.ofText(message, content));
  }

  /** The guess for a whole request. */
  ofRequest(messages, { options, isTextOnly }) {
    const system = guess(`${options.system ?? ""}${options.tools ?? ""}`);
    return worthSending(messages).reduce((sum, message) => sum + this.ofMessage(message, isTextOnly), system + OF_A_MESSAGE);
  }

  /** What this guess becomes, from the guess for the last answer among `messages` and what the server counted for it. */
  corrected(tokens, messages) {
    const { guessed, usage } = messages.findLast((message) => message.guessed && message.usage) ?? {};
    if (!guessed) return Math.round(tokens);
    const counted = usage.prompt_tokens;
    const factor = Math.min(MOST_WRONG, Math.max(1 / MOST_WRONG, counted / guessed));
    return Math.max(1, Math.round(guessed < SMALL ? tokens + counted - guessed : tokens * factor));
  }

  /** How many of the first messages are left out so that `most` tokens hold the rest, which begins with a user's message. The
   * last one of these always stays. */
  numToLeaveOut(messages, request, most) {
    const fits = (tokens) => this.corrected(tokens, messages) <= most;
    if (fits(this.ofRequest(messages, request))) return 0;
    let [start, tokens] = [0, this.ofRequest([], request)];
    for (let at = messages.length - 1; at >= 0; at -= 1) {
      if (worthSending([messages[at]]).length > 0) tokens += this.ofMessage(messages[at], request.isTextOnly);
      if (start > 0 && !fits(tokens)) break;
      if (messages[at].role === "user") start = at;
    }
    return start;
  }
}
