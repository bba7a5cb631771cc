// The Vercel AI SDK with @ai-sdk/open-responses, and with @ai-sdk/openai, whose default is /v1/responses with state:
// later turns name stored items by their ids.

import { readFileSync } from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenResponses } from "@ai-sdk/open-responses";
import * as ai from "ai";
import { z } from "zod";
import { HELLO, KEY, MODEL, URL as PLACE, hold, leaving, run } from "./checks.mjs";

const sent = []; // bodies of the requests
const LONG = 3000; // tokens of an answer that is to be left
async function recorded(url, options) {
  const body = JSON.parse(options.body);
  sent.push(body);
  return fetch(url, { ...options, body: JSON.stringify({ ...body, ignore_eos: body.max_output_tokens === LONG }) });
}

// The demo model does not reason: streams that were found right by hand.
const GOLDEN = { "open-responses": "response_thought.sse", openai: "response_summary.sse" };
const golden = (name) => readFileSync(new URL(`../../api/golden/${name}`, import.meta.url));
const streaming = (name) => async () => new Response(golden(name), { headers: { "Content-Type": "text/event-stream" } });

const makers = {
  "open-responses": (fetch) => createOpenResponses({ name: "omni", url: `${PLACE}/v1/responses`, apiKey: KEY, fetch }),
  openai: (fetch) => createOpenAI({ baseURL: `${PLACE}/v1`, apiKey: KEY, fetch }),
};
const get_weather = ai.tool({
  description: "The weather in a city",
  inputSchema: z.object({ city: z.string().max(20) }),
  execute: async ({ city }) => `It rains in ${city}.`,
});
const size = z.object({ size: z.enum(["small", "large"]) });

function checksOf(name, make) {
  const provider = make(recorded);
  const common = { model: provider(MODEL), prompt: HELLO, maxRetries: 0, maxOutputTokens: 800 };
  const once = ({ stepNumber }) => ({ toolChoice: stepNumber ? "none" : "required" });
  const rounds = { ...common, tools: { get_weather }, stopWhen: ai.stepCountIs(2), prepareStep: once };
  return {
    "a text is generated with its usage": async () => {
      const answer = await ai.generateText({ ...common, maxOutputTokens: 20 });
      hold(answer.text.length > 0 && answer.usage.outputTokens > 0);
    },
    "a text is streamed with its usage": async () => {
      const answer = ai.streamText({ ...common, maxOutputTokens: 20 });
      let text = "";
      for await (const piece of answer.textStream) text += piece;
      hold(text.length > 0 && (await answer.usage).outputTokens > 0);
    },
    "a tool is called and its result answered": async () => {
      const answer = await ai.generateText(rounds);
      hold(answer.steps.length === 2 && "city" in answer.steps[0].toolCalls[0].input, answer.finishReason);
      hold(answer.steps[0].finishReason === "tool-calls" && !answer.steps[1].toolCalls.length);
    },
    "a tool is called and its result answered in a stream": async () => {
      const answer = ai.streamText(rounds);
      const kinds = [];
      for await (const part of answer.fullStream) kinds.push(part.type);
      hold(kinds.includes("tool-input-delta") || kinds.includes("tool-call"), kinds.join());
      hold(kinds.includes("tool-result") && (await answer.steps).length === 2, kinds.join());
    },
    "a typed object is streamed": async () => {
      const answer = ai.streamText({ ...common, output: ai.Output.object({ schema: size }) });
      for await (const _ of answer.textStream);
      hold(["small", "large"].includes((await answer.output).size));
    },
    "a conversation goes on with the messages of the first answer": async () => {
      const asked = [{ role: "user", content: HELLO }];
      const first = await ai.generateText({ ...common, prompt: undefined, messages: asked, maxOutputTokens: 20 });
      const messages = [...asked, ...first.response.messages, { role: "user", content: "And now?" }];
      const second = await ai.generateText({ ...common, prompt: undefined, messages, maxOutputTokens: 20 });
      hold(second.text.length > 0 && sent.at(-1).input.length === 3);
      hold(name !== "openai" || sent.at(-1).input[1].type === "item_reference", JSON.stringify(sent.at(-1).input[1]));
    },
    "reasoning is streamed apart from the answer": async () => {
      const model = make(streaming(GOLDEN[name]))(MODEL);
      const parts = { reasoning: "", text: "" };
      for await (const part of ai.streamText({ model, prompt: HELLO }).fullStream) {
        parts[part.type.split("-")[0]] += part.text ?? "";
      }
      hold(parts.reasoning === "Hm." && parts.text === "Four.", JSON.stringify(parts));
    },
    "an error keeps its status": async () => {
      const failed = await ai.generateText({ ...common, model: provider("gpt-4o") }).catch((error) => error);
      hold(failed.statusCode === 404, String(failed.message));
    },
    "an abort cancels a stream's job": () => leaving(async () => {
      const long = { ...common, maxOutputTokens: LONG, abortSignal: AbortSignal.timeout(400), onError: () => {} };
      const parts = [];
      for await (const part of ai.streamText(long).fullStream) parts.push(part.type);
      hold(parts.includes("abort") || parts.includes("error"), parts.at(-1));
    }),
  };
}

const { tools, ...openai } = { tools: makers.openai(recorded).tools, model: makers.openai(recorded)(MODEL) };
const spell = tools.customTool({
  name: "spell", description: "Spells.", format: { type: "grammar", syntax: "lark", definition: 'start: "ab" "ab"? "c"' },
});

await run({
  ...Object.fromEntries(Object.entries(makers).flatMap(([name, make]) =>
    Object.entries(checksOf(name, make)).map(([title, check]) => [`${name}: ${title}`, check]))),
  "openai: a custom tool is called under its grammar, streamed, and its result taken": async () => {
    const asked = [{ role: "user", content: HELLO }];
    const common = { ...openai, tools: { spell, web_search: tools.webSearch({}) }, maxRetries: 0, maxOutputTokens: 800 };
    const first = ai.streamText({ ...common, messages: asked, toolChoice: "required" });
    for await (const _ of first.fullStream);
    const [call] = await first.toolCalls;
    hold(call?.toolName === "spell" && /^(ab){1,2}c$/.test(call.input), JSON.stringify(call));
    const output = { type: "text", value: "spelt" };
    const result = { type: "tool-result", toolCallId: call.toolCallId, toolName: "spell", output };
    const messages = [...asked, ...(await first.response).messages, { role: "tool", content: [result] }];
    const second = await ai.generateText({ ...common, messages, toolChoice: "none", maxOutputTokens: 20 });
    hold(second.text.length > 0, JSON.stringify(sent.at(-1).input));
  },
});
