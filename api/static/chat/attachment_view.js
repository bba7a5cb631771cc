// Attachments on the page: in the box before they are sent, and in the message afterwards.

import { h, icon } from "./dom.js";
import { grouped } from "./numbers.js";

/** `onRemove`: there is a button that removes it. */
export function attachmentView({ kind, name, url, text, whole }, onRemove = null) {
  const remove = onRemove && h("button", { type: "button", class: "quiet", "aria-label": `Remove ${name}`, title: "Remove", onclick: onRemove }, icon("cross"));
  if (kind === "image") return h("li", { class: "attachment image" }, h("img", { src: url, alt: name, title: name }), remove);
  const number = grouped(text.length);
  const words = `${name} · ${whole ? `the first ${number} of ${grouped(whole)}` : number} characters`;
  const shown = onRemove ? h("span", {}, words) : h("details", {}, h("summary", {}, words), h("pre", { tabindex: "0" }, text));
  return h("li", { class: "attachment" }, shown, remove);
}

export const attachmentList = (attachments) =>
  h("ul", { class: "attachments", "aria-label": "Attachments" }, ...attachments.map((one) => attachmentView(one)));
