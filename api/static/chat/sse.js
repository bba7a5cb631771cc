// Server-sent events read from a fetch body: EventSource can send neither a POST nor a key.

/** Yields {comment} for lines that start with a colon, and {id, data} for each frame. */
export async function* readFrames(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let id = null;
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return; // an incomplete frame is dropped
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines.map((text) => text.replace(/\r$/, ""))) {
        if (line.startsWith(":")) yield { comment: line.slice(1).trim() };
        else if (line.startsWith("id:")) id = line.slice(3).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        else if (line === "" && data.length > 0) {
          yield { id, data: data.join("\n") };
          id = null;
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // the connection may be gone already
  }
}

const NUMBER = /(\w+)=([\d.]+)/g;
const numbers = (comment) => Object.fromEntries([...comment.matchAll(NUMBER)].map(([, name, text]) => [name, Number(text)]));

/** ": queued position=2 eta=4 tier=flex" -> {position: 2, eta: 4, tier: "flex"}, anything else -> null. */
export function parseQueued(comment) {
  if (!comment.startsWith("queued")) return null;
  const { position = null, eta = null } = numbers(comment);
  const tier = comment.match(/ tier=(\w+)/)?.[1] ?? null;
  return { position, eta, tier };
}

/** ": swapped out, model=a, eta=12", ": loading model=a progress=0.4 eta=3", ": waiting model=a, its place ..."
 * -> {progress, eta}, anything else -> null. */
export function parseAway(comment) {
  if (!/^(swapped out|loading|waiting) ?,? ?model=/.test(comment)) return null;
  const { progress = null, eta = null } = numbers(comment.replace(/model=\S+/, "")); // an id may look like a number
  return { progress, eta };
}
