// Whether what is in the box fits the model's context, beside what was said before: told while it is typed, with what to do.

import { countTokens } from "./api.js";
import { h } from "./dom.js";
import { toRequest } from "./fold.js";
import { apiKey } from "./key.js";
import { roomForAnswer } from "./sizes.js";

const TOLD_FROM = 0.5; // of the context
const COUNTED = [0.6, 1.6]; // of the context: where a guess is not enough
const COUNT_AFTER_MS = 400; // without a change
const COUNT_WITHIN_MS = 3000;
const LITTLE = 256; // tokens for an answer, or an eighth of the context
const MARGIN = 0.95; // of a shortened file

const COUNTS = new Intl.NumberFormat("en");
const ABOUT = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });

export class Room {
  /** `talk()`: {earlier, draft, options, isTextOnly}, where `draft` is the message in the box. `actions`: leaveOut(), use(model),
   * startAnew(), shorten(file, numCharacters), sendAnyway(). `onChange()`: tokens were counted. */
  constructor({ element, sizes, models, talk, actions, onChange, announce }) {
    Object.assign(this, { element, sizes, models, talk, actions, onChange, announce });
    this.counted = null; // {sign, tokens, isOver, isDone}: of what was in the box
  }

  /** What is in the box and would be sent, in tokens; null if that is not known or nothing. */
  look() {
    const { context } = this.models;
    const { earlier, draft, ...request } = this.talk();
    if (!context || !(draft.content.trim() || draft.attachments.length > 0)) return null;
    const messages = [...earlier, draft];
    const size = (some) => this.sizes.corrected(this.sizes.ofRequest(some, request), messages);
    const most = context - roomForAnswer(context, request.options);
    const numLeftOut = request.options.overflow ? this.sizes.numToLeaveOut(messages, request, most) : 0;
    const sent = messages.slice(numLeftOut);
    const look = { context, request, draft, sent, numLeftOut, most, hasEarlier: earlier.length > numLeftOut, tokens: size(sent), alone: size([draft]) };
    look.sign = [request.options.model, look.tokens, draft.content].join(" ");
    const counted = this.counted?.sign === look.sign ? this.counted : null;
    if (counted?.tokens) look.tokens = counted.tokens;
    if (counted?.isOver) look.tokens = Math.max(look.tokens, context);
    return { ...look, isOver: look.tokens >= context, isCounted: Boolean(counted?.tokens || counted?.isOver), isKnown: Boolean(counted?.isDone) };
  }

  /** Says how much there is; asks for the tokens where that matters. */
  refresh() {
    const look = this.look();
    const share = look ? look.tokens / look.context : 0;
    const hasImages = look?.sent.some(({ attachments = [] }) => attachments.some(({ kind }) => kind === "image"));
    this.isCounting = share >= COUNTED[0] && share <= COUNTED[1] && !look.isKnown && (!hasImages || look.request.isTextOnly);
    if (this.isCounting) this.countLater(look);
    const left = look && look.context - look.tokens;
    const level = !look ? "" : look.isOver ? "over" : left < Math.min(LITTLE, look.context / 8) ? "little" : "";
    const isTold = level || share >= TOLD_FROM || look?.numLeftOut > 0 || look?.draft.attachments.length > 0;
    this.show(level, isTold ? words(look, level, left) : "", level ? this.offers(look) : []);
  }

  show(level, text, offers) {
    const told = [text, ...offers.map(([label]) => label)].join("\n");
    if (told === this.told) return; // a focus in it stays
    this.told = told;
    const buttons = offers.map(([label, onclick]) => h("button", { type: "button", class: "plain-button", onclick }, label));
    this.element.replaceChildren(h("p", { class: level === "over" ? "error" : null }, text), ...(buttons.length > 0 ? [h("p", { class: "row" }, ...buttons)] : []));
    this.element.hidden = text === "";
    if (level && level !== this.level) this.announce(text);
    this.level = level;
  }

  offers({ context, request, draft, tokens, alone, most, hasEarlier, isOver, isCounted }) {
    const { actions, models, sizes } = this;
    const hasImages = draft.attachments.some(({ kind }) => kind === "image");
    const larger = models.larger(tokens, hasImages);
    const file = draft.attachments.filter(({ kind }) => kind === "text").sort((one, other) => other.text.length - one.text.length)[0];
    const ofFile = file ? (sizes.ofFile(file) * tokens) / Math.max(1, sizes.ofRequest([draft], request)) : 0;
    const share = file ? (most - (alone - Math.min(alone, ofFile))) / ofFile : 0; // of the file that fits, if it is sent alone
    const isAlone = alone >= context;
    const offers = [
      hasEarlier && !isAlone && !request.options.overflow && ["Leave out the oldest messages", () => actions.leaveOut()],
      hasEarlier && !isAlone && ["Send in a new chat", () => actions.startAnew()],
      isAlone && share > 0 && share < 1 && [`Shorten ${file.name}`, () => actions.shorten(file, Math.floor(file.text.length * share * MARGIN))],
      larger && [`Use ${larger}`, () => actions.use(larger)],
      isOver && !isCounted && ["Send anyway", () => actions.sendAnyway()],
    ];
    return offers.filter(Boolean);
  }

  countLater(look) {
    if (look.sign === this.awaited) return;
    this.awaited = look.sign;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.count(look), COUNT_AFTER_MS);
  }

  /** A server that cannot tell leaves the guess. */
  async count({ sign, sent, request }) {
    const { model, messages, tools, reasoning_effort } = toRequest(sent, request);
    const body = { model, messages, tools, reasoning_effort };
    const counted = await countTokens(body, { key: apiKey(), signal: AbortSignal.timeout(COUNT_WITHIN_MS) }).then(
      (tokens) => ({ tokens }),
      ({ code }) => ({ isOver: code === "context_length_exceeded" }),
    );
    if (sign !== this.awaited) return;
    this.counted = { sign, isDone: true, ...counted };
    this.awaited = null;
    this.onChange();
  }
}

function words({ tokens, context, request, numLeftOut, isCounted }, level, left) {
  const amount = (number) => (isCounted ? COUNTS.format(number) : `about ${ABOUT.format(number)}`);
  const has = COUNTS.format(context);
  const older = numLeftOut === 1 ? " The oldest message is left out." : ` The ${numLeftOut} oldest messages are left out.`;
  const end = numLeftOut > 0 ? older : "";
  if (level === "over") return `This needs ${tokens > context ? amount(tokens) : "too many"} tokens; ${request.options.model} holds ${has}.${end}`;
  const rest = level === "little" ? `; ${amount(left)} are left for the answer` : "";
  const text = `${amount(tokens)} of ${has} tokens with this message${rest}.${end}`;
  return text[0].toUpperCase() + text.slice(1);
}
