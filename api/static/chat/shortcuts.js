// Keys that work anywhere on the page, and the sheet that lists them.

import { byId, h } from "./dom.js";
import { recall, remember } from "./recall.js";

const LISTED = [
  ["Enter", "send, also an edit (on a touch screen: a new line; Ctrl+Enter sends)"],
  ["Shift+Enter", "a new line"],
  ["Esc", "stop the answer, or close what is open"],
  ["↑", "in an empty box: edit your last message"],
  ["Ctrl+Shift+O", "a new chat"],
  ["Ctrl+,", "settings"],
  ["Ctrl+/", "this sheet"],
];
const ON_A_CHAT = [
  ["↑ ↓", "the chat before, the next one"],
  ["F2", "rename"],
  ["M", "move to a folder"],
  ["Delete", "delete (can be undone)"],
];
const SINGLE = [
  ["/", "go to the message box"],
  ["?", "this sheet"],
];

const isTyping = ({ target }) => target.closest("input, textarea, select, [contenteditable]") !== null;

/** `onNew()`, `onSettings()`. */
export function wireShortcuts({ onNew, onSettings }) {
  const single = h("input", { type: "checkbox", id: "single-keys" });
  single.checked = recall("single_keys", true);
  single.addEventListener("change", () => remember("single_keys", single.checked));
  const sheet = h(
    "dialog",
    { id: "shortcuts", "aria-labelledby": "shortcuts-title" },
    h("h2", { id: "shortcuts-title" }, "Keyboard shortcuts"),
    table(LISTED),
    h("h3", {}, "On a chat of the list"),
    table(ON_A_CHAT),
    h("label", { for: "single-keys", class: "row" }, single, "Single keys, outside of fields:"),
    table(SINGLE),
    h("form", { method: "dialog" }, h("button", { class: "primary", autofocus: true }, "Close")),
  );
  document.body.append(sheet);
  const show = () => sheet.showModal();
  byId("open-shortcuts").addEventListener("click", show);
  sheet.addEventListener("keydown", (event) => event.key === "Escape" && event.stopPropagation()); // an answer goes on
  const actions = { "ctrl+shift+o": onNew, "ctrl+,": onSettings, "ctrl+/": show };
  const singles = { "/": () => byId("text").focus(), "?": show };
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || sheet.open || event.isComposing) return;
    const action = actions[combination(event)] ?? (isSingle(event) && single.checked ? singles[event.key] : editsLast(event));
    if (!action) return;
    event.preventDefault();
    action();
  });
}

const isSingle = (event) => !(event.ctrlKey || event.metaKey || event.altKey || isTyping(event));

function combination({ key, ctrlKey, metaKey, shiftKey, altKey }) {
  if (altKey || !(ctrlKey || metaKey)) return "";
  return `ctrl+${shiftKey && key.length === 1 && /[a-z]/i.test(key) ? "shift+" : ""}${key.toLowerCase()}`;
}

/** The edit button of the last message of one's own, if Up was pressed in an empty box. */
function editsLast({ key, target }) {
  if (key !== "ArrowUp" || target.id !== "text" || target.value) return null;
  const button = [...document.querySelectorAll('.message.user [aria-label^="Edit"]')].at(-1);
  return button && (() => button.click());
}

const table = (rows) =>
  h("table", {}, h("tbody", {}, ...rows.map(([keys, what]) => h("tr", {}, h("td", {}, h("kbd", {}, keys)), h("td", {}, what)))));
