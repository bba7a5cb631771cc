// A small dialog with one field.

import { h } from "./dom.js";

/** Resolves to the text, or to null if it was cancelled. `known`: offered while typing. */
export function ask({ title, label, value = "", known = [], action }) {
  const field = h("input", { id: "asked", value, autocomplete: "off", list: known.length > 0 ? "asked-known" : null });
  const cancel = h("button", { type: "button", class: "plain-button" }, "Cancel");
  const form = h(
    "form",
    { method: "dialog" },
    h("h2", { id: "asked-title" }, title),
    h("label", { for: "asked" }, label),
    field,
    h("datalist", { id: "asked-known" }, ...known.map((text) => h("option", { value: text }))),
    h("p", { class: "row" }, h("button", { type: "submit", class: "primary" }, action), cancel),
  );
  const dialog = h("dialog", { class: "ask", "aria-labelledby": "asked-title" }, form);
  document.body.append(dialog);
  return new Promise((resolve) => {
    let answer = null;
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
