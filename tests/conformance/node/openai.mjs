// openai for node, with its helpers.

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { HELLO, KEY, MODEL, URL, hold, leaving, run } from "./checks.mjs";

const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey: KEY, maxRetries: 0 });
const messages = [{ role: "user", content: HELLO }];
const Place = z.object({ city: z.string() });
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather in a city",
    parameters: {
      type: "object",
      properties: { city: { type: "string", maxLength: 20 } },
      required: ["city"],
      additionalProperties: false,
    },
  },
};

await run({
  "a chat is answered": async () => {
    const answer = await client.chat.completions.create({ model: MODEL, messages, max_tokens: 20 });
    hold(answer.choices[0].message.content && answer.usage.completion_tokens > 0);
  },
  "a stream ends with its usage": async () => {
    const stream = await client.chat.completions.create({
      model: MODEL, messages, max_tokens: 20, stream: true, stream_options: { include_usage: true },
    });
    let text = "";
    let last;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? "";
      last = chunk;
    }
    hold(text && last.usage.total_tokens > 0 && last.choices.length === 0);
  },
  "the stream helper puts the answer together": async () => {
    const stream = client.chat.completions.stream({ model: MODEL, messages, max_tokens: 20 });
    hold((await stream.finalContent()).length > 0);
  },
  "parse gives a typed answer": async () => {
    const answer = await client.chat.completions.parse({
      model: MODEL, messages, max_tokens: 800,
      response_format: zodResponseFormat(z.object({ size: z.enum(["small", "large"]) }), "size"),
    });
    hold(["small", "large"].includes(answer.choices[0].message.parsed.size));
  },
  "a required tool is called, streaming and not": async () => {
    const body = { model: MODEL, messages, tools: [weather], tool_choice: "required", max_tokens: 800 };
    const whole = await client.chat.completions.create(body);
    hold("city" in JSON.parse(whole.choices[0].message.tool_calls[0].function.arguments));
    const streamed = await client.chat.completions.stream(body).finalChatCompletion();
    hold("city" in JSON.parse(streamed.choices[0].message.tool_calls[0].function.arguments));
    hold(streamed.choices[0].finish_reason === "tool_calls", streamed.choices[0].finish_reason);
  },
  "errors are the SDK's own": async () => {
    try {
      await client.chat.completions.create({ model: MODEL, messages, temperature: 3 });
      hold(false, "temperature 3 was taken");
    } catch (error) {
      hold(error instanceof OpenAI.BadRequestError && error.param === "temperature", error.message);
    }
    try {
      await client.models.retrieve("gpt-4o");
      hold(false, "gpt-4o is there");
    } catch (error) {
      hold(error instanceof OpenAI.NotFoundError && error.code === "model_not_found", error.message);
    }
  },
  "a refused stream is the SDK's error too": async () => {
    try {
      await client.chat.completions.create({ model: "gpt-4o", messages, stream: true });
      hold(false, "gpt-4o is there");
    } catch (error) {
      hold(error instanceof OpenAI.NotFoundError, error.message);
    }
  },
  "a stream is parsed into a typed answer": async () => {
    const stream = client.chat.completions.stream({
      model: MODEL, messages, max_tokens: 800, stream_options: { include_usage: true },
      response_format: zodResponseFormat(z.object({ size: z.enum(["small", "large"]) }), "size"),
    });
    const final = await stream.finalChatCompletion();
    hold(["small", "large"].includes(final.choices[0].message.parsed.size) && final.usage.completion_tokens > 0);
  },
  "aborting a stream cancels its job": () => leaving(async () => {
    const stream = await client.chat.completions.create({
      model: MODEL, messages, max_tokens: 3000, ignore_eos: true, stream: true,
    });
    for await (const _ of stream) break; // the SDK aborts the request
  }),
  "aborting what is not streamed cancels it": () => leaving(async () => {
    const signal = AbortSignal.timeout(400);
    const body = { model: MODEL, messages, max_tokens: 3000, ignore_eos: true };
    await client.chat.completions.create(body, { signal }).catch(() => {});
  }),
  "responses answer, stream and call tools": async () => {
    const answer = await client.responses.create({ model: MODEL, input: HELLO, max_output_tokens: 20 });
    hold(answer.output_text.length > 0 && answer.usage.output_tokens > 0);
    const { type, function: described } = weather;
    const stream = client.responses.stream({
      model: MODEL, input: HELLO, tools: [{ type, ...described }], tool_choice: "required", max_output_tokens: 800,
    });
    const final = await stream.finalResponse();
    const call = final.output.find((item) => item.type === "function_call");
    hold("city" in JSON.parse(call.arguments));
  },
  "the older completions work": async () => {
    const answer = await client.completions.create({ model: MODEL, prompt: "Once", max_tokens: 5 });
    hold(typeof answer.choices[0].text === "string");
  },
  "models are listed": async () => {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    hold(ids.includes(MODEL));
  },
});
