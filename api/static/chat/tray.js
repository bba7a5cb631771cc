// The files that wait in the box to be sent: chosen, pasted or dropped.

import { checkRoom, LIMITS, readAttachment, Refusal, TEXT_LIMITS } from "./attachments.js";
import { attachmentView } from "./attachment_view.js";
import { byId } from "./dom.js";
import { filesOf, keepFiles } from "./drafts.js";

const MAX_FILES = 20;
const NOT_KEPT = "The browser has no room for these files: send them before the page is closed.";

export class Tray {
  /** `held()`: what the conversation has already. `noImages()`: why the picked model takes none, or "". `onChange()`: a file
   * came, went or is being read. */
  constructor({ held, noImages, onChange }) {
    Object.assign(this, { held, noImages, onChange, conversation: null, files: [], numReading: 0 });
    this.list = byId("tray");
    this.told = byId("tray-note");
    this.input = byId("files");
    this.button = byId("attach");
    this.button.addEventListener("click", () => this.input.click());
    this.input.addEventListener("change", () => {
      this.add([...this.input.files]);
      this.input.value = ""; // the same file may be chosen again
    });
    byId("text").addEventListener("paste", (event) => this.takeFrom(event, event.clipboardData));
    this.wireDrop(document.body, document.querySelector("main"));
  }

  /** Beside the page's own places, the browser would open the file instead of the page. */
  wireDrop(place, marked) {
    const mark = (isOver) => marked.classList.toggle("dropping", isOver);
    place.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      mark(true);
    });
    place.addEventListener("dragleave", (event) => place.contains(event.relatedTarget) || mark(false));
    place.addEventListener("drop", (event) => {
      mark(false);
      this.takeFrom(event, event.dataTransfer);
    });
  }

  takeFrom(event, transfer) {
    if (transfer.files.length === 0) return;
    event.preventDefault();
    this.add([...transfer.files]);
  }

  /** Says what may be attached with the picked model. */
  label() {
    const refusal = this.noImages();
    this.button.title = `Attach files. ${refusal ? `${TEXT_LIMITS} ${refusal}` : LIMITS}`;
  }

  /** Whether there are images and the picked model takes none. */
  get isRefused() {
    return this.files.some(({ kind }) => kind === "image") && this.noImages() !== "";
  }

  get isReading() {
    return this.numReading > 0;
  }

  /** The tray of another chat, with what was attached there before. */
  async show(conversation) {
    if (conversation === this.conversation) return;
    if (this.conversation) this.files = []; // else they came before the first chat was there
    this.conversation = conversation;
    this.draw();
    await this.read("", async () => {
      const { files } = this;
      files.unshift(...(await filesOf(conversation)));
      if (files === this.files) this.draw();
    });
  }

  async add(files) {
    await this.read("Reading…", async (refusals) => {
      const { conversation, files: taken } = this; // another chat may be opened meanwhile
      for (const file of files) {
        try {
          if (taken.length >= MAX_FILES) throw new Refusal(`${file.name} is left out: a message may have ${MAX_FILES} files.`);
          const attachment = await readAttachment(file, this.noImages());
          checkRoom(attachment, [...this.held(), ...taken]);
          taken.push(attachment);
        } catch (error) {
          if (!(error instanceof Refusal)) throw error;
          refusals.push(error.message);
        }
        if (taken === this.files) this.draw();
      }
      await this.keep(conversation ?? this.conversation, taken);
    });
  }

  /** What is sent waits for `work(refusals)`. */
  async read(words, work) {
    const { conversation } = this;
    const refusals = [];
    this.numReading += 1;
    this.tell(words);
    await work(refusals);
    this.numReading -= 1;
    if (conversation === this.conversation || refusals.length > 0) this.tell(refusals.join(" "), true);
    this.onChange();
  }

  /** Over a reload. */
  async keep(conversation = this.conversation, files = this.files) {
    await keepFiles(conversation, files).catch(() => files.length > 0 && this.tell(NOT_KEPT));
  }

  tell(text, isRefused = false) {
    this.told.textContent = text;
    this.told.classList.toggle("error", isRefused);
    this.onChange();
  }

  draw() {
    this.list.replaceChildren(...this.files.map((file) => attachmentView(file, () => this.remove(file))));
    this.list.hidden = this.files.length === 0;
  }

  remove(file) {
    this.files.splice(this.files.indexOf(file), 1);
    this.draw();
    this.tell("");
    this.keep();
    byId("text").focus();
  }

  /** Leaves the beginning of a text file. Returns what undoes it as long as the file is here. */
  shorten(file, numCharacters) {
    const cut = { ...file, text: file.text.slice(0, numCharacters), whole: file.whole ?? file.text.length };
    this.replace(file, cut);
    return () => this.replace(cut, file);
  }

  replace(file, other) {
    if (!this.files.includes(file)) return;
    this.files.splice(this.files.indexOf(file), 1, other);
    this.draw();
    this.keep();
    this.onChange();
  }

  /** The files, which are no longer here afterwards. */
  take() {
    const files = this.files;
    this.files = [];
    this.draw();
    this.tell("");
    this.keep();
    return files;
  }
}
