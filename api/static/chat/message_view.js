// One message on the page.

import { canContinue, isEdited, isRunning } from "./answer.js";
import { attachmentList } from "./attachment_view.js";
import { h, icon } from "./dom.js";
import { editForm } from "./edit_form.js";
import { wholeCalls } from "./fold.js";
import { MarkdownView } from "./markdown.js";
import { menuButton } from "./menu.js";
import { advice, ending, figures, leftOut, progress, wait } from "./words.js";

const FRAME_MS = 8; // spent on the text of an answer; the rest is drawn with the next frame
const NAMES = { user: "You", assistant: "Assistant", tool: "Tool result" };

const action = (name, label, onclick) =>
  h("button", { type: "button", class: "quiet", "aria-label": label, title: label, onclick }, icon(name));

export class MessageView {
  /** `actions`: edit(message, text, attachments), rewrite(message, fields), again(message), goOn(message), variants(message),
   * choose(message), numWithFollowing(message), remove(message), removeOnly(message), branchOff(message), retry(message),
   * mayLeaveOut(), leaveOut(message), hurry(message), sendToolResult(message, call, text), openSettings(). */
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.body = h("div", { class: "body" });
    this.markdown = message.role === "assistant" ? new MarkdownView(this.body) : null;
    this.reasoning = h("details", { class: "fold", hidden: true }, h("summary", {}, "Reasoning"), h("div", { class: "plain" }));
    this.calls = h("div", { class: "calls" });
    this.notice = h("div", { class: "notice", hidden: true });
    this.status = h("span", { class: "status" });
    this.foot = h("footer", {}, this.status, this.buttons());
    this.who = h("h2", { class: "who" }, NAMES[message.role]);
    const parts = [this.who, this.reasoning, this.body, this.calls, this.notice, this.foot];
    this.element = h("article", { class: `message ${message.role}`, "data-id": message.id }, ...parts);
    this.update();
  }

  buttons() {
    const { message, actions } = this;
    const copy = h("button", { type: "button", class: "quiet", "data-copy": "message", "aria-label": "Copy", title: "Copy" }, icon("copy"));
    const buttons = h("span", { class: "actions" }, copy);
    this.more = h("button", { type: "button", class: "continue", hidden: true, onclick: () => actions.goOn(message) }, "Continue");
    if (message.role === "assistant") buttons.prepend(this.more);
    buttons.append(action("edit", "Edit", () => this.edit()));
    if (message.role === "assistant") buttons.append(action("again", "Regenerate", () => actions.again(message)));
    const switcher = this.switcher();
    buttons.append(menuButton("More", () => this.menu(switcher !== null)));
    if (switcher) buttons.append(switcher);
    return buttons;
  }

  menu(hasVariants) {
    const { message, actions } = this;
    const num = actions.numWithFollowing(message);
    const what = `Delete ${hasVariants ? "this variant" : "from here on"} (${num} ${num === 1 ? "message" : "messages"})`;
    const items = [
      (message.role === "assistant" || (message.role === "user" && message.parent)) && ["New chat from here", () => actions.branchOff(message)],
      isEdited(message) && ["Restore the model's text", () => actions.rewrite(message, { content: message.original })],
      num > 1 && message.role !== "tool" && ["Delete only this message", () => actions.removeOnly(message), "danger"],
      [num > 1 || hasVariants ? what : "Delete", () => actions.remove(message), "danger"],
    ];
    return items.filter(Boolean);
  }

  /** After another tab has added or deleted a variant. */
  updateVariants() {
    const ways = this.actions.variants(this.message);
    if (this.place !== `${ways.indexOf(this.message)}/${ways.length}`) this.foot.lastChild.replaceWith(this.buttons());
    if (this.message.role === "assistant") this.more.hidden = isRunning(this.message) || !canContinue(this.message);
  }

  /** "‹ 2/3 ›": which of the messages that were written at this place is shown. */
  switcher() {
    const ways = this.actions.variants(this.message);
    const at = ways.indexOf(this.message);
    this.place = `${at}/${ways.length}`;
    if (ways.length < 2) return null;
    const arrow = (sign, label, to) => {
      const disabled = to === undefined;
      return h("button", { type: "button", class: "quiet", "aria-label": label, title: label, disabled, onclick: () => this.actions.choose(to) }, sign);
    };
    const place = h("span", { role: "status", "aria-label": `Variant ${at + 1} of ${ways.length}` }, `${at + 1}/${ways.length}`);
    const parts = [arrow("‹", "Previous variant", ways[at - 1]), place, arrow("›", "Next variant", ways[at + 1])];
    return h("span", { class: "variants" }, ...parts);
  }

  update() {
    const { message } = this;
    const running = isRunning(message);
    this.element.classList.toggle("running", running);
    this.element.setAttribute("aria-busy", String(running));
    this.isDrawn = true;
    if (this.markdown) this.isDrawn = this.markdown.update(shown(message), FRAME_MS);
    else this.body.textContent = message.content;
    this.updateFiles(message.attachments ?? []);
    if (message.role === "assistant") this.updateAnswer(running);
  }

  updateFiles(files) {
    if (files === this.files) return;
    if (this.files?.length) this.body.previousElementSibling.remove();
    if (files.length > 0) this.body.before(attachmentList(files));
    this.files = files;
  }

  updateAnswer(running) {
    const { message } = this;
    this.who.textContent = message.model ?? message.options?.model ?? NAMES.assistant;
    this.reasoning.hidden = !message.reasoning;
    if (message.reasoning) this.reasoning.lastChild.textContent = message.reasoning;
    this.reasoning.firstChild.textContent = running && !message.content ? "Reasoning…" : "Reasoning";
    this.updateCalls(running);
    this.updateNotice();
    this.more.hidden = running || !canContinue(message);
    const words = running ? [progress(message), message.firstAt ? figures(message) : ""] : [isEdited(message) && "Edited", ending(message), leftOut(message), figures(message)];
    this.status.textContent = words.filter(Boolean).join(" · ");
  }

  updateCalls(running) {
    const isCut = !running && wholeCalls(this.message).length === 0;
    this.message.toolCalls.forEach((call, index) => {
      const view = this.calls.children[index] ?? this.calls.appendChild(this.callView(call));
      view.querySelector(".name").textContent = isCut ? `Call of ${call.name}, cut off` : `Calls ${call.name}`;
      view.querySelector(".arguments").textContent = pretty(call.arguments);
      view.querySelector("form").hidden = running || isCut || call.answered;
    });
  }

  callView(call) {
    const area = h("textarea", { rows: "2", "aria-label": `Result of ${call.name}`, placeholder: "The tool's result" });
    const send = (event) => {
      event.preventDefault();
      this.actions.sendToolResult(this.message, call, area.value);
    };
    return h(
      "details",
      { class: "fold" },
      h("summary", {}, h("span", { class: "name" })),
      h("pre", { class: "arguments", tabindex: "0" }),
      h("form", { class: "tool-result", onsubmit: send }, area, h("button", { type: "submit" }, "Send result")),
    );
  }

  /** Of a request that was refused for now: why, and when it is sent again. */
  updateRefusal() {
    const { refusal } = this.message;
    if (!isRunning(this.message) || !refusal?.left) return false;
    this.notice.hidden = false;
    if (!this.countdown?.isConnected) {
      this.countdown = h("p", {});
      const now = h("button", { type: "button", onclick: () => this.actions.hurry(this.message) }, "Try now");
      this.notice.replaceChildren(h("strong", {}), this.countdown, h("p", { class: "row" }, now));
    }
    this.notice.firstChild.textContent = refusal.text;
    this.countdown.textContent = `Trying again in ${wait(refusal.left)}.`;
    return true;
  }

  updateNotice() {
    if (this.updateRefusal()) return;
    if (this.countdown) this.notice.replaceChildren();
    this.countdown = null;
    const { state, error } = this.message;
    this.notice.hidden = state !== "failed" && state !== "lost";
    if (this.notice.hidden || this.notice.childElementCount > 0) {
      if (this.notice.hidden) this.notice.replaceChildren();
      return;
    }
    const lost = { message: "The connection was lost.", status: 0 };
    const told = state === "lost" ? lost : error;
    const retry = h("button", { type: "button", onclick: () => this.actions.retry(this.message) }, "Try again");
    const settings = h("button", { type: "button", onclick: () => this.actions.openSettings() }, "Settings");
    const leaveOut = h("button", { type: "button", onclick: () => this.actions.leaveOut(this.message) }, "Leave out the oldest messages");
    const isTooLong = told.code === "context_length_exceeded" && this.actions.mayLeaveOut();
    const row = h("p", { class: "row" }, isTooLong ? leaveOut : null, retry, settings);
    this.notice.append(h("strong", {}, told.message), h("p", {}, advice(told)), row);
  }

  edit() {
    const { message, actions } = this;
    const close = () => {
      form.remove();
      this.element.classList.remove("editing");
      this.foot.querySelector('[aria-label="Edit"]').focus();
    };
    const form = editForm(message, {
      onSend: (text, files) => actions.edit(message, text, files),
      onSave: (content, files) => {
        close();
        actions.rewrite(message, files.length === (message.attachments ?? []).length ? { content } : { content, attachments: files });
      },
      onCancel: close,
    });
    this.element.classList.add("editing");
    this.body.after(form);
    form.querySelector("textarea").focus();
  }
}

/** An answer that keeps to a JSON schema is shown as the code that it is. */
function shown({ content, options }) {
  return options?.schema && content ? `\`\`\`\`\`\`json\n${pretty(content)}\n\`\`\`\`\`\`` : content;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // still streaming, or not JSON
  }
}
