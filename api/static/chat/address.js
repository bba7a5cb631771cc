// The open chat in the address: it can be bookmarked, opened in another tab, and left by the browser's Back.

const FORM = /^#\/chat\/(.+)$/;

/** The id in the address, or null. */
export const addressed = () => FORM.exec(location.hash)?.[1] ?? null;

/** A chat without messages has no address: there is nothing to come back to. */
export function address(conversation) {
  const wanted = conversation.messages.length > 0 ? `#/chat/${conversation.id}` : "";
  if (location.hash === wanted) return;
  const isFirst = history.state?.chat === undefined || history.state.chat === conversation.id;
  history[isFirst ? "replaceState" : "pushState"]({ chat: conversation.id }, "", wanted || location.pathname + location.search);
}

/** `onMove(id)`: Back, Forward or another address was chosen. */
export function wireAddress(onMove) {
  window.addEventListener("popstate", () => (addressed() || !location.hash) && onMove(addressed() ?? history.state?.chat)); // not "#text"
}
