// The file to upload: chosen, or dropped on its area. Its first line says which endpoint it is for.

import { bytes } from "../board/words.js";

const HEAD = 256 * 1024; // bytes that are read to find the first line

export class FileField {
  constructor({ field, area, label, fault, onEndpoint }) {
    Object.assign(this, { field, label, fault, onEndpoint, invitation: label.textContent });
    field.addEventListener("change", () => this.show());
    for (const kind of ["dragover", "dragleave", "drop"]) {
      area.addEventListener(kind, (event) => {
        event.preventDefault();
        area.classList.toggle("over", kind === "dragover");
        if (kind === "drop" && event.dataTransfer.files.length > 0) this.take(event.dataTransfer.files);
      });
    }
  }

  get chosen() {
    return this.field.files[0];
  }

  take(files) {
    this.field.files = files;
    this.show();
  }

  clear() {
    this.field.value = "";
    this.show();
  }

  /** The form cannot be sent while something is wrong with the file. */
  complain(fault) {
    this.field.setCustomValidity(fault);
    this.fault.textContent = fault;
  }

  async show() {
    const file = this.chosen;
    this.complain("");
    this.label.textContent = file ? `${file.name}, ${bytes(file.size)}` : this.invitation;
    if (!file) return;
    const [line] = (await file.slice(0, HEAD).text()).split("\n");
    let fault = "";
    try {
      const { url } = JSON.parse(line);
      if (typeof url === "string") this.onEndpoint(url);
    } catch {
      if (line.length < HEAD) fault = `${file.name} has no request in its first line. Choose a file with a JSON object in each line.`;
    }
    if (file === this.chosen) this.complain(fault);
  }
}
