// The files that wait in the box to be sent: chosen, pasted or dropped.

import { checkRoom, LIMITS, readAttachment, Refusal, TEXT_LIMITS } from "./attachments.js";
import { attachmentView } from "./attachment_view.js";
import { byId } from "./dom.js";

const MAX_FILES = 20;

export class Tray {
  /** `held()`: what the conversation has already. `noImages()`: why the picked model takes none, or "". `onChange()`: a file
   * came, went or is being read. */
  constructor({ held, noImages, onChange }) {
    Object.assign(this, { held, noImages, onChange, files: [], numReading: 0 });
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

  async add(files) {
    const refusals = [];
    this.numReading += 1;
    this.tell("Reading…");
    for (const file of files) {
      try {
        if (this.files.length >= MAX_FILES) throw new Refusal(`${file.name} is left out: a message may have ${MAX_FILES} files.`);
        const attachment = await readAttachment(file, this.noImages());
        checkRoom(attachment, [...this.held(), ...this.files]);
        this.files.push(attachment);
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        refusals.push(error.message);
      }
      this.draw();
    }
    this.numReading -= 1;
    this.tell(refusals.join(" "), true);
    this.onChange();
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
    this.files = this.files.filter((other) => other !== file);
    this.draw();
    this.tell("");
    byId("text").focus();
  }

  /** The files, which are no longer here afterwards. */
  take() {
    const files = this.files;
    this.files = [];
    this.draw();
    this.tell("");
    return files;
  }
}
