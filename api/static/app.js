// The chat page: connects the store, the views and the running answers.

import { Answer, emptyAnswer, isRunning } from "./chat/answer.js";
import { Composer } from "./chat/composer.js";
import { byId, randomId } from "./chat/dom.js";
import { keepFocus } from "./chat/focus.js";
import { apiKey } from "./chat/key.js";
import { Models } from "./chat/models.js";
import { Panel } from "./chat/panel.js";
import { wireShortcuts } from "./chat/shortcuts.js";
import { Sidebar } from "./chat/sidebar.js";
import { recall, remember, Store } from "./chat/store.js";
import { wireTheme } from "./chat/theme.js";
import { Transcript, welcome } from "./chat/transcript.js";
import { ending, progress } from "./chat/words.js";

const SUGGESTIONS = [
  "Hello, how are you?",
  "Why is the sky blue?",
  "Tell me a story about a dragon.",
  "Write a short poem about the sea.",
];

class App {
  constructor() {
    this.store = new Store({ onError: (text) => this.announce(text), onForeign: (id) => this.follow(id) });
    this.answers = new Map(); // message id -> running Answer
    const openSettings = () => this.panel.toggle(true);
    this.panel = new Panel({
      onKey: () => this.models.load(this.current.options.model),
      onOptions: (name, value) => this.setOption(name, value),
    });
    this.models = new Models({
      onPick: (model) => this.setOption("model", model),
      onList: () => this.composer?.refresh(),
      openSettings,
    });
    this.sidebar = new Sidebar({
      onOpen: (id) => this.open(this.store.get(id)),
      onNew: () => this.openNew(),
      onRemove: (conversation) => this.remove(conversation),
    });
    this.transcript = new Transcript({
      scroller: byId("scroller"),
      list: byId("messages"),
      jump: byId("jump"),
      actions: {
        edit: (message, text) => this.edit(message, text),
        again: (message) => this.again(message),
        retry: (message) => this.retry(message),
        hurry: (message) => this.answers.get(message.id)?.hurry(),
        sendToolResult: (message, call, text) => this.sendToolResult(message, call, text),
        openSettings,
      },
    });
    this.composer = new Composer({
      form: byId("composer"),
      area: byId("text"),
      sendButton: byId("send"),
      stopButton: byId("stop"),
      note: byId("send-note"),
      onSend: (text, attachments) => this.send(text, attachments),
      onStop: () => this.stop(),
      held: () => this.current.messages.flatMap(({ attachments = [] }) => attachments),
      waitsFor: () => (this.models.picked ? "" : "a model is there"),
    });
    wireShortcuts({ onNew: () => this.openNew(), onSettings: () => this.panel.toggle() });
    wireTheme(byId("theme"));
    keepFocus(byId("text"));
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.stop());
  }

  start() {
    this.open(this.store.get(recall("open", null)) ?? this.store.list()[0] ?? this.store.create({}));
    this.models.load(this.current.options.model);
    this.resumeAll();
    byId("text").focus();
  }

  // conversations

  open(conversation) {
    this.current = conversation;
    remember("open", conversation.id);
    this.panel.show(conversation.options);
    this.models.pick(conversation.options.model);
    this.transcript.show(conversation);
    if (conversation.messages.length === 0) {
      byId("messages").append(welcome(SUGGESTIONS, (text) => this.composer.sendText(text)));
    }
    this.refresh();
  }

  openNew() {
    if (this.current.messages.length > 0) this.open(this.store.create(this.current.options));
    byId("text").focus();
  }

  remove(conversation) {
    if (!confirm(`Delete "${conversation.title}"?`)) return;
    conversation.messages.filter(isRunning).forEach((message) => this.answers.get(message.id)?.stop());
    this.store.remove(conversation.id);
    if (conversation === this.current) this.open(this.store.list()[0] ?? this.store.create(conversation.options));
    else this.refresh();
  }

  /** Another tab has changed or deleted this conversation. Running answers of this tab stay. */
  follow(id) {
    if (id !== this.current.id) return this.refresh();
    if (this.current.messages.some(({ id }) => this.answers.has(id))) return;
    this.open(this.store.get(id) ?? this.store.create(this.current.options));
  }

  setOption(name, value) {
    this.current.options[name] = value;
    this.store.save(this.current);
  }

  refresh() {
    this.sidebar.show(this.store.list().filter((one) => one.messages.length > 0 || one === this.current), this.current);
    this.composer.setRunning(this.current.messages.some(isRunning));
    this.models.count(this.current.messages);
    document.title = this.current.messages.length > 0 ? `${this.current.title} - Protocol OMNI` : "Protocol OMNI";
  }

  // messages

  send(text, attachments = []) {
    const files = attachments.length > 0 ? { attachments } : {};
    this.append(this.current, { id: randomId(), role: "user", content: text, ...files });
    this.answer(this.current);
  }

  append(conversation, message) {
    if (conversation.messages.length === 0) byId("messages").replaceChildren();
    conversation.messages.push(message);
    conversation.updated = Date.now();
    this.store.save(conversation);
    if (conversation === this.current) this.transcript.add(message);
  }

  edit(message, text) {
    this.cutBefore(message);
    this.send(text, message.attachments);
  }

  again(message) {
    this.cutBefore(message);
    this.answer(this.current);
  }

  /** Resumes a lost answer; repeats the request of a refused one. */
  retry(message) {
    if (message.state !== "lost") return this.again(message);
    message.state = "waiting";
    this.run(this.current, message);
  }

  sendToolResult(message, call, text) {
    call.answered = true;
    this.append(this.current, { id: randomId(), role: "tool", content: text, toolCallId: call.id });
    this.transcript.update(message);
    if (message.toolCalls.every(({ answered }) => answered)) this.answer(this.current);
  }

  cutBefore(message) {
    this.stop();
    this.current.messages.splice(this.current.messages.indexOf(message));
    this.transcript.show(this.current);
  }

  // answers

  answer(conversation) {
    const options = { ...conversation.options, model: this.models.picked };
    const message = emptyAnswer(randomId(), options);
    this.append(conversation, message);
    this.run(conversation, message);
  }

  async run(conversation, message) {
    const messages = conversation.messages.slice(0, conversation.messages.indexOf(message));
    let told = "";
    const onChange = () => {
      this.store.save(conversation);
      this.transcript.update(message);
      const words = progress(message);
      if (words && words !== told && conversation === this.current) this.announce((told = words));
    };
    const answer = new Answer({ message, messages, key: apiKey(), onChange });
    this.answers.set(message.id, answer);
    this.store.flush(); // before the request is sent, so that a reload finds the question
    onChange();
    this.refresh();
    await answer.run();
    this.answers.delete(message.id);
    this.refresh();
    if (conversation === this.current) this.announce(ending(message) || message.error?.message || `Answer: ${message.content}`);
  }

  /** After a reload: resume every running answer after its last stored event. */
  resumeAll() {
    for (const conversation of this.store.list()) {
      for (const message of conversation.messages.filter(isRunning)) {
        message.resumed = true;
        this.run(conversation, message);
      }
    }
  }

  stop() {
    for (const message of this.current.messages.filter(isRunning)) this.answers.get(message.id)?.stop();
    this.refresh();
  }

  /** Announces whole sentences to screen readers, not tokens. */
  announce(text) {
    byId("announcement").textContent = text.slice(0, 1000);
  }
}

new App().start();
