// The theme button: auto (the system's) -> light -> dark. The choice is stored in the browser.

import { icon } from "./dom.js";

const ORDER = ["auto", "light", "dark"];

export function wireTheme(button) {
  const root = document.documentElement;
  const show = () => {
    button.replaceChildren(icon(root.dataset.theme));
    button.setAttribute("aria-label", `Theme: ${root.dataset.theme}`);
    button.title = `Theme: ${root.dataset.theme}`;
  };
  button.addEventListener("click", () => {
    root.dataset.theme = ORDER[(ORDER.indexOf(root.dataset.theme) + 1) % ORDER.length];
    localStorage.setItem("omni.theme", root.dataset.theme);
    show();
  });
  show();
}
