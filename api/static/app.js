// The chat page: connects the store, the views and the running answers.

import { alone, hasLocks } from "./chat/alone.js";
import { Answer, continueAnswer, emptyAnswer, isRunning } from "./chat/answer.js";
import * as branches from "./chat/branches.js";
import { Composer } from "./chat/composer.js";
import { Conversations } from "./chat/conversations.js";
import { byId, randomId } from "./chat/dom.js";
import { draftOf, dropDrafts, keepDraft } from "./chat/drafts.js";
import { keepFocus } from "./chat/focus.js";
import { apiKey } from "./chat/key.js";
import { Models } from "./chat/models.js";
import { LEAVE_OUT } from "./chat/options.js";
import { Panel } from "./chat/panel.js";
import { Room } from "./chat/room.js";
import { wireShortcuts } from "./chat/shortcuts.js";
import { roomForAnswer, Sizes } from "./chat/sizes.js";
import { wireTheme } from "./chat/theme.js";
import { Transcript, welcome } from "./chat/transcript.js";
import { ending, progress } from "./chat/words.js";

const SUGGESTIONS = [
  "Hello, how are you?",
  "Why is the sky blue?",
  "Tell me a story about a dragon.",
  "Write a short poem about the sea.",
];

const TOO_LONG = "context_length_exceeded";
const SHARE = 0.8; // of what was sent in vain

class App {
  constructor() {
    this.answers = new Map(); // message id -> Answer that runs in this tab
    this.awaited = new Set(); // ids of messages that this tab would go on with if the tab that runs them closed
    this.conversations = new Conversations({
      onOpen: (conversation) => this.show(conversation),
      onForeign: (conversation) => this.follow(conversation),
      onOrder: (order) => this.obey(order),
      onRemove: (conversation) => this.stopAll([...conversation.nodes.values()]),
      isBusy: (id) => this.answers.has(id),
    });
    this.store = this.conversations.store;
    const openSettings = () => this.panel.toggle(true);
    this.panel = new Panel({
      onKey: () => this.models.load(this.current.options.model),
      onOptions: (name, value) => this.setOption(name, value),
    });
    this.models = new Models({
      onPick: (model) => {
        this.setOption("model", model);
        this.composer.refresh();
      },
      onList: () => this.composer?.refresh(),
      openSettings,
    });
    this.transcript = new Transcript({
      scroller: byId("scroller"),
      list: byId("messages"),
      jump: byId("jump"),
      actions: {
        edit: (message, text, attachments) => this.edit(message, text, attachments),
        again: (message) => this.again(message),
        goOn: (message) => this.goOn(message),
        variants: (message) => branches.variants(this.current, message),
        choose: (message) => this.choose(message),
        rewrite: (message, fields) => this.rewrite(this.current, message, fields),
        numWithFollowing: (message) => branches.withFollowing(this.current, message).length,
        remove: (message) => this.remove(message),
        removeOnly: (message) => this.takeOut(branches.lift, message),
        branchOff: (message) => this.conversations.branchOff(message),
        retry: (message) => this.retry(message),
        mayLeaveOut: () => this.models.context && !this.current.options.overflow && this.current.messages.filter(({ role }) => role === "user").length > 1,
        leaveOut: (message) => this.leaveOut(() => this.retry(message)),
        hurry: (message) => this.order({ hurry: message.id }),
        sendToolResult: (message, call, text) => this.sendToolResult(message, call, text),
        openSettings,
      },
    });
    this.sizes = new Sizes();
    this.room = new Room({
      element: byId("size-note"),
      sizes: this.sizes,
      models: this.models,
      talk: () => ({ earlier: this.current.messages, draft: this.composer.draft, ...this.request(this.current) }),
      actions: {
        leaveOut: () => this.leaveOut(() => this.composer.send()),
        use: (model) => this.use(model),
        startAnew: () => this.sendAnew(),
        shorten: (file, numCharacters) => {
          const undo = this.composer.tray.shorten(file, numCharacters);
          this.conversations.toast.show(`Shortened ${file.name}.`, "Undo", undo);
        },
        sendAnyway: () => this.composer.send(true),
      },
      onChange: () => this.composer.refresh(),
      announce: (text) => this.announce(text),
    });
    this.composer = new Composer({
      form: byId("composer"),
      area: byId("text"),
      sendButton: byId("send"),
      stopButton: byId("stop"),
      note: byId("send-note"),
      onSend: (text, attachments) => this.send(text, attachments),
      onType: (text) => keepDraft(this.current, text),
      onStop: () => this.stop(),
      held: () => this.current.messages.flatMap(({ attachments = [] }) => attachments),
      noImages: () => this.models.noImages,
      waitsFor: () => (this.models.picked ? (this.room.isCounting ? "its tokens are counted" : "") : "a model is there"),
      mayBeSent: () => !this.room.look()?.isOver,
      onChange: () => this.room.refresh(),
    });
    wireShortcuts({ onNew: () => this.conversations.openNew(), onSettings: () => this.panel.toggle() });
    wireTheme(byId("theme"));
    keepFocus(byId("text"));
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.stop());
  }

  async start() {
    await this.conversations.start();
    this.models.load(this.current.options.model);
    this.resumeAll();
    if (this.store.database) dropDrafts((id) => this.store.get(id) !== undefined).catch(() => {}); // there is no room for any
    byId("text").focus();
  }

  get current() {
    return this.conversations.current;
  }

  show(conversation) {
    this.panel.show(conversation.options);
    this.models.pick(conversation.options.model);
    this.composer.show(conversation, draftOf(conversation));
    this.transcript.show(conversation);
    this.awaitAnswers(conversation);
    if (conversation.messages.length === 0) {
      byId("messages").append(welcome(SUGGESTIONS, (text) => this.composer.sendText(text)));
    }
    this.refresh();
  }

  setOption(name, value) {
    this.current.options[name] = value;
    this.store.save(this.current);
  }

  refresh() {
    this.composer.setRunning(this.current.messages.some(isRunning));
    this.models.count(this.current.messages);
  }

  // messages

  send(text, attachments = []) {
    const files = attachments.length > 0 ? { attachments } : {};
    this.append(this.current, { id: randomId(), role: "user", content: text, ...files });
    this.answer(this.current);
  }

  append(conversation, message) {
    if (conversation.messages.length === 0) byId("messages").replaceChildren();
    branches.append(conversation, message);
    conversation.updated = Date.now();
    this.store.save(conversation, message);
    if (conversation === this.current) this.transcript.add(message);
  }

  /** Beside the old message, which stays with all that followed it. */
  edit(message, text, attachments) {
    this.stepBack(message);
    this.send(text, attachments);
  }

  again(message) {
    this.stepBack(message);
    this.answer(this.current);
  }

  /** Resumes a lost answer; repeats the request of a refused one, in its place if it has nothing to lose. */
  retry(message) {
    if (message.state === "lost") {
      message.state = "waiting";
      this.run(this.current, message);
    } else if (message.numContinued) {
      this.goOn(message);
    } else {
      const isEmpty = !message.content && !message.reasoning && !message.toolCalls.length;
      this.stepBack(message);
      if (isEmpty) this.drop(message);
      this.answer(this.current);
    }
  }

  /** Asks for more of an answer that was stopped or cut. */
  goOn(message) {
    continueAnswer(message);
    this.run(this.current, message);
  }

  choose(message) {
    branches.choose(this.current, message);
    this.store.save(this.current);
    this.transcript.showFrom(this.current, message);
    this.refresh();
  }

  drop(message) {
    branches.drop(this.current, message);
    this.store.forget(this.current, [message]);
  }

  /** Deletes a message and all that follows it; without a variant beside it a first one is the whole conversation. */
  remove(message) {
    const conversation = this.current;
    const isWhole = conversation.messages[0] === message && branches.variants(conversation, message).length === 1;
    if (isWhole) this.conversations.remove([conversation]);
    else this.takeOut(branches.cut, message);
  }

  /** `cut`: branches.cut, or branches.lift. */
  async takeOut(cut, message) {
    const conversation = this.current;
    const out = cut(conversation, message);
    const { taken, moved } = out;
    this.stopAll(taken);
    this.setAnswered(conversation, taken, false);
    for (const { node } of [{}, ...moved]) this.store.save(conversation, node);
    this.changed(conversation);
    const what = taken.length === 1 ? "1 message" : `${taken.length} messages`;
    this.conversations.toast.show(`Deleted ${what}.`, "Undo", () => this.putBack(conversation, out));
    await this.store.flush(); // before those that they followed are gone
    this.store.forget(conversation, taken.filter(({ id }) => !conversation.nodes.has(id)));
  }

  /** Whether the calls have the results that are among these messages. */
  setAnswered(conversation, messages, answered) {
    for (const result of messages.filter(({ role }) => role === "tool")) {
      const { caller, call } = branches.callOf(conversation, result);
      if (!call) continue;
      call.answered = answered;
      this.store.save(conversation, caller);
    }
  }

  putBack(conversation, out) {
    branches.putBack(conversation, out);
    this.setAnswered(conversation, out.taken, true);
    for (const message of [...out.taken, ...out.moved.map(({ node }) => node)]) this.store.save(conversation, message);
    this.store.flush();
    this.changed(conversation);
  }

  /** Changes a message in its place; what follows it stays. Of an answer the model's own text is kept. */
  rewrite(conversation, message, fields) {
    const { content, attachments, original } = message;
    if (content === fields.content && !fields.attachments) return;
    const own = original ?? content;
    const kept = message.role === "assistant" ? { original: fields.content === own ? undefined : own } : {};
    const write = (values) => {
      Object.assign(message, values);
      this.store.save(conversation, message);
      this.store.flush();
      this.changed(conversation);
    };
    write({ ...fields, ...kept });
    this.conversations.toast.show("Changed the message.", "Undo", () => write({ content, attachments, original }));
  }

  /** The path of a conversation is another one. */
  changed(conversation) {
    if (conversation !== this.current) return;
    this.transcript.follow(conversation);
    this.conversations.refresh();
    this.refresh();
  }

  stepBack(message) {
    this.stop();
    branches.stepBack(this.current, message);
    this.transcript.showAgain(this.current);
  }

  sendToolResult(message, call, text) {
    call.answered = true;
    this.store.save(this.current, message);
    this.append(this.current, { id: randomId(), role: "tool", content: text, toolCallId: call.id });
    this.transcript.update(message);
    if (message.toolCalls.every(({ answered }) => answered)) this.answer(this.current);
  }

  // the context of the model

  /** From now on the oldest messages are left out where the model does not hold all. */
  leaveOut(then) {
    this.setOption("overflow", LEAVE_OUT);
    this.panel.show(this.current.options);
    this.transcript.homeOfFocus().focus();
    then();
  }

  use(model) {
    this.models.pick(model);
    this.setOption("model", model);
    this.composer.refresh();
    this.transcript.homeOfFocus().focus();
  }

  sendAnew() {
    const { content, attachments } = this.composer.take();
    this.conversations.openNew({ folder: this.current.folder });
    this.send(content, attachments);
  }

  /** How many of the first messages an answer is not given. */
  numLeftOut(messages, { options, isTextOnly }, share = 1) {
    const { context } = this.models;
    if (!context || !options.overflow) return 0;
    const most = (context - roomForAnswer(context, options)) * share;
    return this.sizes.numToLeaveOut(messages, { options, isTextOnly }, most);
  }

  // answers

  /** What an answer is asked for with, beside the messages. */
  request({ options }) {
    return { options: { ...options, model: this.models.picked }, isTextOnly: this.models.noImages !== "" };
  }

  answer(conversation) {
    const { options, isTextOnly } = this.request(conversation);
    const message = { ...emptyAnswer(randomId(), options), isTextOnly };
    this.append(conversation, message);
    this.run(conversation, message);
  }

  /** `lock`: what other tabs wait for that would go on with it. */
  async run(conversation, message, lock = alone) {
    let told = "";
    const onChange = () => {
      this.store.save(conversation, message);
      this.transcript.update(message);
      const words = progress(message);
      if (words && words !== told && conversation === this.current) this.announce((told = words));
    };
    const answers = this.attempts(branches.lineage(conversation, message), message, onChange);
    const first = answers.next().value;
    onChange();
    this.conversations.count(conversation, 1);
    this.refresh();
    await lock(`answer.${message.id}`, async () => {
      await this.store.flush(); // before the request is sent, so that a reload finds the question
      await first.run();
      for (const answer of answers) await answer.run();
      await this.store.flush(); // before another tab may go on with it
    });
    this.answers.delete(message.id);
    this.conversations.count(conversation, -1);
    this.refresh();
    if (conversation === this.current) this.announce(ending(message) || message.error?.message || `Answer: ${message.content}`);
  }

  /** An answer, and others with fewer messages as long as the server finds them too long and that is asked for. */
  *attempts(lineage, message, onChange) {
    let leftOut = message.job ? message.leftOut : this.numLeftOut(lineage, message);
    for (let share = SHARE; ; share *= SHARE) {
      const messages = lineage.slice(leftOut);
      Object.assign(message, { leftOut, guessed: message.numContinued ? null : this.sizes.ofRequest(messages, message) });
      const answer = new Answer({ message, messages, key: apiKey(), onChange });
      this.answers.set(message.id, answer);
      yield answer;
      const most = this.numLeftOut(lineage, message, share);
      if (message.error?.code !== TOO_LONG || most <= leftOut) return;
      leftOut = most;
      Object.assign(message, { state: "sending", error: null });
    }
  }

  /** After a reload: every running answer goes on after its last stored event. */
  async resumeAll() {
    for (const conversation of await this.store.unfinished()) {
      for (const message of conversation.nodes.values()) this.resume(conversation, message);
    }
  }

  /** Goes on with an answer once no other tab reads it, if it is not done by then. */
  async resume(conversation, message) {
    if (!isRunning(message) || this.answers.has(message.id) || this.awaited.has(message.id)) return;
    this.awaited.add(message.id);
    await alone(`answer.${message.id}`, async () => {
      this.awaited.delete(message.id);
      if (hasLocks) await this.store.readAgain(conversation.id, [message.id]);
      if (!isRunning(message) || !this.store.has(message)) return;
      message.resumed = true;
      await this.run(conversation, message, (name, work) => work()); // it has the lock
    });
  }

  /** Those that run in another tab. */
  awaitAnswers(conversation) {
    if (hasLocks) for (const message of conversation.nodes?.values() ?? []) this.resume(conversation, message);
  }

  /** Another tab, or an import, has changed a conversation. */
  follow(conversation) {
    this.awaitAnswers(conversation);
    if (conversation !== this.current) return;
    this.transcript.follow(conversation);
    this.refresh();
  }

  /** Does it, or lets the tab do it in which the answer runs. */
  order(order) {
    if (!this.obey(order)) this.store.tell({ order });
  }

  /** Whether the answer runs in this tab. */
  obey({ stop, hurry }) {
    const answer = this.answers.get(stop ?? hurry);
    if (stop) answer?.stop();
    else answer?.hurry();
    return answer !== undefined;
  }

  stop() {
    this.stopAll(this.current.messages);
    this.refresh();
  }

  stopAll(messages) {
    for (const message of messages.filter(isRunning)) this.order({ stop: message.id });
  }

  /** Announces whole sentences to screen readers, not tokens. */
  announce(text) {
    byId("announcement").textContent = text.slice(0, 1000);
  }
}

new App().start();
