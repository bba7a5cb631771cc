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

/** ": queued position=2 eta=4" -> {position: 2, eta: 4}, anything else -> null. */
export function parseQueued(comment) {
  if (!comment.startsWith("queued")) return null;
  const values = Object.fromEntries([...comment.matchAll(/(\w+)=([\d.]+)/g)].map(([, name, text]) => [name, Number(text)]));
  return { position: values.position ?? null, eta: values.eta ?? null };
}
