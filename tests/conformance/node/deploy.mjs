// openai for node and the AI SDK while the API is deployed in the middle of a stream: an error, and no finish.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import * as ai from "ai";
import OpenAI from "openai";
import { HELLO, KEY, MODEL, URL, hold, restarting, run } from "./checks.mjs";

const LONG = 6000; // two minutes of the paced model: no answer ends by itself
const AT = 8; // events that come before the restart
const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY, maxRetries: 0 });
const provider = createOpenAICompatible({ name: "omni", baseURL: `${URL}/v1`, apiKey: KEY });
const messages = [{ role: "user", content: HELLO }];

const sdk = () => ai.streamText({
  model: provider(MODEL), prompt: HELLO, maxOutputTokens: LONG, maxRetries: 0, onError: () => {},
}).fullStream;
const streams = {
  "chat": () => client.chat.completions.create({ model: MODEL, messages, max_tokens: LONG, stream: true }),
  "completion": () => client.completions.create({ model: MODEL, prompt: HELLO, max_tokens: LONG, stream: true }),
  "response": () => client.responses.create({ model: MODEL, input: HELLO, max_output_tokens: LONG, stream: true }),
};

// All of a stream, and what it raised; `begun` is called at event number AT, or at its end.
async function read(open, begun) {
  const parts = [];
  try {
    for await (const part of await open()) if (parts.push(part) === AT) begun();
    return { parts };
  } catch (error) {
    return { parts, error };
  } finally {
    begun();
  }
}

// The ends of all streams, which are open when the API is restarted.
async function ends(signal) {
  const found = {};
  await restarting(signal, async (restart) => {
    const begun = [];
    const reading = Object.entries({ ...streams, sdk }).map(async ([name, open]) => {
      let begin;
      begun.push(new Promise((resolve) => { begin = resolve; }));
      found[name] = await read(open, begin);
    });
    await Promise.all(begun);
    restart();
    await Promise.all(reading);
  });
  return found;
}

function holdRaised({ parts, error }) {
  hold(error, `the stream ended after ${parts.length} events as if it were over`);
  hold(error.code === "server_restarting" && parts.length >= AT, `${parts.length} events, then ${error}`);
}

function holdNoFinish({ parts }) {
  const failed = parts.find((part) => part.type === "error");
  hold(failed && String(failed.error?.message ?? failed.error).includes("restarting"), JSON.stringify(parts.at(-1)));
  const ends = parts.filter((part) => part.type === "finish").map((part) => part.finishReason);
  hold(ends.every((reason) => reason === "error"), `finished with ${ends}`);
}

const checks = {};
for (const signal of ["SIGHUP", "SIGTERM"]) {
  let seen;
  const end = async (name) => (await (seen ??= ends(signal)))[name];
  for (const name of Object.keys(streams)) checks[`a ${name} raises at ${signal}`] = async () => holdRaised(await end(name));
  checks[`the AI SDK reports an error at ${signal}`] = async () => holdNoFinish(await end("sdk"));
}
await run(checks);
