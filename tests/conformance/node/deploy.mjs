// openai for node and the AI SDK while the API is deployed in the middle of a stream: an error, and no finish.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import * as ai from "ai";
import OpenAI from "openai";
import { HELLO, KEY, MODEL, URL, hold, restarting, run } from "./checks.mjs";

const LONG = 1500; // half a minute of the paced model: no answer ends by itself
const AT = 8; // events that come before the restart
const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY, maxRetries: 0 });
const provider = createOpenAICompatible({ name: "omni", baseURL: `${URL}/v1`, apiKey: KEY });
const messages = [{ role: "user", content: HELLO }];

const streams = {
  "chat": () => client.chat.completions.create({ model: MODEL, messages, max_tokens: LONG, stream: true }),
  "completion": () => client.completions.create({ model: MODEL, prompt: HELLO, max_tokens: LONG, stream: true }),
  "response": () => client.responses.create({ model: MODEL, input: HELLO, max_output_tokens: LONG, stream: true }),
};

async function raises(open, signal) {
  await restarting(signal, async (restart) => {
    let numSeen = 0;
    try {
      for await (const _ of await open()) if (++numSeen === AT) restart();
    } catch (error) {
      return hold(error.code === "server_restarting" && numSeen >= AT, `${numSeen} events, then ${error}`);
    }
    hold(false, `the stream ended after ${numSeen} events as if it were over`);
  });
}

async function isNoFinish(signal) {
  await restarting(signal, async (restart) => {
    const answer = ai.streamText({
      model: provider(MODEL), prompt: HELLO, maxOutputTokens: LONG, maxRetries: 0, onError: () => {},
    });
    const parts = [];
    for await (const part of answer.fullStream) {
      parts.push(part);
      if (parts.length === AT) restart();
    }
    const failed = parts.find((part) => part.type === "error");
    hold(failed && String(failed.error?.message ?? failed.error).includes("restarting"), JSON.stringify(parts.at(-1)));
    const ends = parts.filter((part) => part.type === "finish").map((part) => part.finishReason);
    hold(ends.every((reason) => reason === "error"), `finished with ${ends}`);
  });
}

const checks = {};
for (const signal of ["SIGHUP", "SIGTERM"]) {
  for (const [name, open] of Object.entries(streams)) checks[`a ${name} raises at ${signal}`] = () => raises(open, signal);
  checks[`the AI SDK reports an error at ${signal}`] = () => isNoFinish(signal);
}
await run(checks);
