// Keeps the keyboard's place. When the focused element is rebuilt, the focus goes to the element that took its place; when
// it is removed or hidden, to what stands nearest, or to `home`.

const FOCUSABLE = 'button, [href], input, select, textarea, summary, [tabindex="0"]';

const isShown = (element) => element.isConnected && !element.disabled && element.checkVisibility({ visibilityProperty: true });
const nameOf = (element) => element.id || element.getAttribute("aria-label") || element.title || element.textContent.trim();

export function keepFocus(home) {
  let last = null; // {element, name, parents}: where the focus was

  const remember = ({ target }) => {
    const parents = [];
    for (let one = target.parentElement; one && one !== document.body; one = one.parentElement) parents.push(one);
    last = { element: target, name: nameOf(target), parents };
  };

  const check = () => {
    const isLost = !document.activeElement || document.activeElement === document.body;
    if (!last || !isLost || isShown(last.element)) return;
    const { element, name, parents } = last;
    const near = parents.filter(isShown).slice(0, 3).flatMap((parent) => [...parent.querySelectorAll(FOCUSABLE)].filter(isShown));
    const same = near.find((one) => one.tagName === element.tagName && nameOf(one) === name);
    (same ?? nearest(parents, element) ?? home).focus({ preventScroll: !same });
  };

  document.addEventListener("focusin", remember);
  document.addEventListener("pointerdown", () => (last = null), true); // a click on nothing gives the focus up
  new MutationObserver(check).observe(document.body, {
    subtree: true,
    childList: true,
    attributes: true,
    attributeFilter: ["hidden", "disabled", "class", "open"],
  });
}

/** What can take the focus in the smallest part that still stands, if that is a list or a toolbar of its own. */
function nearest(parents, element) {
  const part = parents.find((parent) => isShown(parent) && parent.matches("ul, ol, nav, aside, dialog, tbody, [role=toolbar]"));
  const choices = part ? [...part.querySelectorAll(FOCUSABLE)].filter((one) => isShown(one) && one !== element) : [];
  return choices.find((one) => one.getAttribute("aria-current")) ?? choices[0];
}
