// A menu that opens at its button. Arrow keys move, Escape and a click elsewhere close, the focus returns to the button.

import { h, icon } from "./dom.js";

const GAP_PX = 4;

/** `items`: [label, action, kind] each; kind is "danger" or nothing. */
export function openMenu(opener, items) {
  const buttons = items.map(([label, action, kind]) =>
    h("button", { type: "button", role: "menuitem", tabindex: "-1", class: kind, onclick: () => close(action) }, label),
  );
  const menu = h("div", { class: "menu", role: "menu", popover: "auto", "aria-label": opener.getAttribute("aria-label") }, ...buttons);
  let isOpen = true;

  const close = (action) => {
    if (!isOpen) return;
    isOpen = false;
    menu.remove();
    opener.setAttribute("aria-expanded", "false");
    if (opener.isConnected) opener.focus();
    action?.();
  };
  const press = (event) => {
    const at = buttons.indexOf(document.activeElement);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: -1 }[event.key];
    if (next !== undefined) buttons.at(next % buttons.length).focus();
    else if (event.key === "Escape" || event.key === "Tab") close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  menu.addEventListener("keydown", press);
  menu.addEventListener("toggle", ({ newState }) => newState === "closed" && close());

  (opener.closest("nav, main") ?? document.body).append(menu); // within a landmark
  menu.showPopover();
  place(menu, opener.getBoundingClientRect());
  opener.setAttribute("aria-expanded", "true");
  buttons[0].focus();
}

function place(menu, { left, top, bottom }) {
  const { offsetWidth, offsetHeight } = menu;
  const isBelow = bottom + GAP_PX + offsetHeight <= innerHeight;
  menu.style.left = `${Math.max(GAP_PX, Math.min(left, innerWidth - offsetWidth - GAP_PX))}px`;
  menu.style.top = `${isBelow ? bottom + GAP_PX : Math.max(GAP_PX, top - offsetHeight - GAP_PX)}px`;
}

/** A button that opens a menu. `items()` is asked when it opens. */
export function menuButton(label, items) {
  const open = ({ currentTarget }) => openMenu(currentTarget, items());
  const properties = { type: "button", class: "quiet", "aria-haspopup": "menu", "aria-expanded": "false", "aria-label": label };
  return h("button", { ...properties, title: label, onclick: open }, icon("dots"));
}
