// The API reference: /openapi.json in Swagger UI, with the theme and the key of the other pages.

import { apiKey, setApiKey } from "./chat/key.js";
import { wireTheme } from "./chat/theme.js";

const SCHEME = "key"; // the name of the security scheme in openapi.json

const root = document.documentElement;
const field = document.querySelector("#key");
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

// Swagger UI's own dark colours hang on a class.
function showTheme() {
  const theme = root.dataset.theme;
  root.classList.toggle("dark-mode", theme === "dark" || (theme === "auto" && systemIsDark.matches));
}

showTheme();
new MutationObserver(showTheme).observe(root, { attributeFilter: ["data-theme"] });
systemIsDark.addEventListener("change", showTheme);
wireTheme(document.querySelector("#theme"));

// Names and landmarks that Swagger UI leaves out, and the focus that its scrolled boxes need. It brings its own <main>.
const NAMELESS = [
  [".body-param__text", "aria-label", "Request body"],
  [".examples-select-element", "aria-label", "Example"],
  [".content-type", "aria-label", "Media type"],
  [".information-container", "role", "region"],
  [".information-container", "aria-label", "About this API"],
  [".filter", "role", "search"],
  ["pre.microlight, .model-box", "tabindex", "0"],
];

new MutationObserver(() => {
  for (const [selector, name, value] of NAMELESS) {
    for (const one of document.querySelectorAll(selector)) one.hasAttribute(name) || one.setAttribute(name, value);
  }
}).observe(document.querySelector("#reference"), { childList: true, subtree: true });

const viewer = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  displayRequestDuration: true,
  docExpansion: "list",
  defaultModelRendering: "example",
  defaultModelsExpandDepth: -1, // each operation shows its own
  filter: true,
  tryItOutEnabled: true,
  validatorUrl: null, // it would send the document to a server elsewhere
  onComplete: useKey,
});

function useKey() {
  viewer.preauthorizeApiKey(SCHEME, apiKey());
}

field.value = apiKey();
field.addEventListener("change", () => {
  setApiKey(field.value);
  field.value = apiKey();
  useKey();
});
document.querySelector("#key-form").addEventListener("submit", (event) => event.preventDefault());
