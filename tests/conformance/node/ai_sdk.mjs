// The Vercel AI SDK with @ai-sdk/openai-compatible, as Cline uses it.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import * as ai from "ai";
import { z } from "zod";
import { HELLO, KEY, MODEL, URL, hold, leaving, run } from "./checks.mjs";

const provider = createOpenAICompatible({
  name: "omni", baseURL: `${URL}/v1`, apiKey: KEY, includeUsage: true, supportsStructuredOutputs: true,
});
const model = provider(MODEL);
const common = { model, prompt: HELLO, maxRetries: 0 };
const long = { ...common, maxOutputTokens: 3000, providerOptions: { omni: { ignore_eos: true } } };
const get_weather = ai.tool({
  description: "The weather in a city",
  inputSchema: z.object({ city: z.string().max(20) }),
});

await run({
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
  "a typed object is generated": async () => {
    const answer = await ai.generateText({
      ...common, maxOutputTokens: 800,
      output: ai.Output.object({ schema: z.object({ size: z.enum(["small", "large"]) }) }),
    });
    hold(["small", "large"].includes(answer.output.size));
  },
  "a required tool is called": async () => {
    const answer = await ai.generateText({
      ...common, maxOutputTokens: 800, tools: { get_weather }, toolChoice: "required",
    });
    hold(answer.toolCalls[0].toolName === "get_weather" && "city" in answer.toolCalls[0].input);
  },
  "a tool call is streamed": async () => {
    const answer = ai.streamText({ ...common, maxOutputTokens: 800, tools: { get_weather }, toolChoice: "required" });
    const calls = [];
    for await (const part of answer.fullStream) if (part.type === "tool-call") calls.push(part);
    hold(calls.length > 0 && "city" in calls[0].input);
    hold((await answer.finishReason) === "tool-calls", await answer.finishReason);
  },
  "an error keeps its status": async () => {
    try {
      await ai.generateText({ ...common, model: provider("gpt-4o") });
    } catch (error) {
      return hold(error.statusCode === 404, error.message);
    }
    hold(false, "gpt-4o was taken");
  },
  "a typed object is streamed": async () => {
    const answer = ai.streamText({
      ...common, maxOutputTokens: 800,
      output: ai.Output.object({ schema: z.object({ size: z.enum(["small", "large"]) }) }),
    });
    for await (const _ of answer.textStream);
    hold(["small", "large"].includes((await answer.output).size));
  },
  "a stream's error keeps its status": async () => {
    const answer = ai.streamText({ ...common, model: provider("gpt-4o"), onError: () => {} });
    const parts = [];
    for await (const part of answer.fullStream) parts.push(part);
    const failed = parts.find((part) => part.type === "error");
    hold(failed?.error.statusCode === 404, JSON.stringify(parts.map((part) => part.type)));
  },
  "an abort cancels a stream's job": () => leaving(async () => {
    const answer = ai.streamText({ ...long, abortSignal: AbortSignal.timeout(400), onError: () => {} });
    const parts = [];
    for await (const part of answer.fullStream) parts.push(part.type);
    hold(parts.includes("abort") || parts.includes("error"), parts.at(-1));
  }),
  "an abort cancels what is not streamed": () => leaving(async () => {
    await ai.generateText({ ...long, abortSignal: AbortSignal.timeout(400) }).catch(() => {});
  }),
});
