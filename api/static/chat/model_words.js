// How near a model is, as text: on the board, in the list of models and under an answer that waits for it.

/** "about 3 s", "about 2 min" */
export function about(seconds) {
  const rounded = Math.max(1, Math.round(seconds));
  return rounded < 90 ? `about ${rounded} s` : `about ${Math.round(rounded / 60)} min`;
}

const UNITS = [
  ["d", 86_400],
  ["h", 3600],
  ["min", 60],
  ["s", 1],
];

function whole(seconds) {
  const [name, size] = UNITS.find((unit) => seconds >= unit[1]) ?? UNITS.at(-1);
  return `${Math.round(seconds / size)} ${name}`;
}

const BUSY_S = 3; // a model that has worked within so long is not called idle

/** How long a loaded model stays; `now` in unix seconds. */
export function stays({ is_pinned, keep_alive_s, unload_at }, now) {
  if (is_pinned) return "pinned";
  const left = unload_at - now;
  if (unload_at && left < keep_alive_s - BUSY_S) return `idle, leaves in ${whole(Math.max(0, left))}`;
  return keptFor({ is_pinned, keep_alive_s });
}

/** How long a model stays once it is loaded. */
export function keptFor({ is_pinned, keep_alive_s }) {
  if (is_pinned) return "pinned";
  if (keep_alive_s === 0) return "while it has work";
  if (keep_alive_s > 0) return `${whole(keep_alive_s)} without work`;
  return "until its place is needed";
}

/** Of an item of GET /v1/models; empty without a status. */
export function nearness({ status, eta_s }) {
  const share = Math.round((status?.progress ?? 0) * 100);
  const far = share ? ` ${share} %` : "";
  const when = typeof eta_s === "number" ? `loads in ${about(eta_s)}` : "not loaded";
  const words = { loaded: "loaded", loading: `loading${far}`, warm: when, cold: when };
  if (status?.state === "failed") return `cannot be loaded: ${status.reason ?? "see the server's log"}`;
  return words[status?.state] ?? "";
}

/** Of an answer whose model is away. `away`: {progress, eta}, as the stream says. */
export function awayWords({ progress, eta }, hasBegun) {
  const when = eta === null ? "" : `, ${about(eta)}`;
  const share = !progress ? "" : ` (${Math.round(progress * 100)} %)`;
  if (hasBegun) {
    return progress === null
      ? `Paused while another model answers; it goes on by itself${when}`
      : `Paused: its model is coming back${share}; it goes on by itself${when}`;
  }
  return progress === null ? `Waiting for its model to be loaded${when}` : `Its model is being loaded${share}${when}`;
}
