// A message that is being edited in its place.

import { attachmentView } from "./attachment_view.js";
import { isSend } from "./composer.js";
import { h } from "./dom.js";

const MAX_ROWS = 18;

/** `onSend(text, attachments)`: as a variant, which is answered; of one's own messages only. `onSave(text, attachments)`: in its
 * place, with what follows it. `onCancel()`. */
export function editForm({ role, content, attachments = [] }, { onSend, onSave, onCancel }) {
  const mayBeSent = role === "user";
  const rows = Math.min(MAX_ROWS, Math.max(3, content.split("\n").length + 1));
  const area = h("textarea", { rows, "aria-label": "Edit message" });
  area.value = content;
  let files = attachments;
  const remove = (file, view) => {
    files = files.filter((other) => other !== file);
    view.remove();
    area.focus();
  };
  const views = files.map((file) => {
    const view = attachmentView(file, () => remove(file, view));
    return view;
  });
  const end = (action) => (area.value.trim() || files.length > 0) && action(area.value, files);
  const first = mayBeSent ? onSend : onSave;
  const press = (event) => {
    if (event.key === "Escape") onCancel();
    else if (isSend(event) && (mayBeSent || event.ctrlKey || event.metaKey)) end(first);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const submit = (event) => {
    event.preventDefault();
    end(first);
  };
  const other = (words, onclick) => h("button", { type: "button", class: "plain-button", onclick }, words);
  const buttons = [
    h("button", { type: "submit", class: "primary" }, mayBeSent ? "Send" : "Save"),
    mayBeSent ? other("Save only", () => end(onSave)) : null,
    other("Cancel", onCancel),
  ];
  const kept = views.length > 0 ? h("ul", { class: "attachments", "aria-label": "Attachments" }, ...views) : null;
  return h("form", { class: "edit", onsubmit: submit, onkeydown: press }, kept, area, h("p", { class: "row" }, ...buttons));
}
