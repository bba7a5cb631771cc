// A small dialog with one field.

import { h } from "./dom.js";

/** Resolves to the text, or to null if it was cancelled. `choices`: [words, value], each a button that gives its value. */
export function ask({ title, label, value = "", choices = [], action }) {
  const field = h("input", { id: "asked", value, autocomplete: "off" });
  let end = null;
  const cancel = h("button", { type: "button", class: "plain-button" }, "Cancel");
  const button = ([words, value]) => h("button", { type: "button", class: "plain-button", onclick: () => end(value) }, words);
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id: "asked-title" }, title),
    choices.length > 0 ? h("p", { class: "choices" }, ...choices.map(button)) : null,
    h("label", { for: "asked" }, label),
    field,
    h("p", { class: "row" }, h("button", { type: "submit", class: "primary" }, action), cancel),
  );
  const dialog = h("dialog", { class: "ask", "aria-labelledby": "asked-title" }, form);
  document.body.append(dialog);
  return new Promise((resolve) => {
    let answer = null;
    end = (value) => {
      answer = value;
      dialog.close();
    };
    form.addEventListener("submit", () => (answer = field.value.trim()));
    cancel.addEventListener("click", () => dialog.close());
    dialog.addEventListener("keydown", (event) => event.stopPropagation()); // Escape is for the dialog only
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(answer);
    });
    dialog.showModal();
    field.select();
  });
}
