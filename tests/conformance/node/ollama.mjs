// ollama for JavaScript.

import { Ollama } from "ollama";
import { HELLO, KEY, MODEL, URL, hold, leaving, run } from "./checks.mjs";

const headers = { Authorization: `Bearer ${KEY}` };
const client = new Ollama({ host: URL, headers });
const messages = [{ role: "user", content: HELLO }];
const short = { num_predict: 20, temperature: 0 };
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather in a city",
    parameters: { type: "object", properties: { city: { type: "string", maxLength: 20 } }, required: ["city"] },
  },
};

// Adds our `tool_choice`: the client has no field for it.
const forcing = new Ollama({
  host: URL,
  headers,
  fetch: (url, init) => fetch(url, { ...init, body: JSON.stringify({ ...JSON.parse(init.body), tool_choice: "required" }) }),
});

async function all(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

await run({
  "a chat is answered": async () => {
    const answer = await client.chat({ model: MODEL, messages, options: short });
    hold(answer.message.content.length > 0 && answer.done && answer.eval_count <= 20);
    hold(!Number.isNaN(new Date(answer.created_at).getTime()) && answer.total_duration > 0);
  },
  "a stream is the same answer in parts": async () => {
    const parts = await all(await client.chat({ model: MODEL, messages, options: short, stream: true }));
    const whole = await client.chat({ model: MODEL, messages, options: short });
    hold(parts.map((part) => part.message.content).join("") === whole.message.content);
    hold(parts.at(-1).done && parts.at(-1).eval_count > 0);
  },
  "a tool is called and its result taken back": async () => {
    const options = { num_predict: 800 };
    const parts = await all(await forcing.chat({ model: MODEL, messages, tools: [weather], options, stream: true }));
    const calls = parts.flatMap((part) => part.message.tool_calls ?? []);
    hold(calls.length > 0 && calls.every((call) => typeof call.function.arguments.city === "string"));
    const called = { role: "assistant", content: "", tool_calls: calls };
    const results = calls.map((call) => ({ role: "tool", tool_name: call.function.name, content: "sunny" }));
    const again = [...messages, called, ...results];
    const answer = await client.chat({ model: MODEL, messages: again, tools: [weather], options: short });
    hold(answer.message.content || answer.message.tool_calls);
  },
  "a format is kept to": async () => {
    const format = {
      type: "object",
      properties: { city: { type: "string", maxLength: 20 }, isLarge: { type: "boolean" } },
      required: ["city", "isLarge"],
      additionalProperties: false,
    };
    const answer = await client.chat({ model: MODEL, messages, format, options: { num_predict: 800 } });
    hold(typeof JSON.parse(answer.message.content).isLarge === "boolean");
  },
  "a prompt is completed": async () => {
    const answer = await client.generate({ model: MODEL, prompt: HELLO, system: "Be kind.", think: false, options: short });
    hold(answer.response.length > 0 && answer.done);
    const parts = await all(await client.generate({ model: MODEL, prompt: "Once", raw: true, options: short, stream: true }));
    hold(parts.map((part) => part.response).join("").length > 0);
  },
  "what is served is listed and shown": async () => {
    hold((await client.list()).models.some((model) => model.name === `${MODEL}:latest`));
    hold((await client.show({ model: MODEL })).capabilities.includes("tools"));
    hold((await client.ps()).models.length > 0 && (await client.version()).version);
    hold((await client.pull({ model: MODEL })).status === "success");
  },
  "an error has a sentence": async () => {
    const errors = await Promise.all(
      [{ model: "llama3.2", messages }, { model: MODEL, messages, options: { temperature: 9 } }].map((body) =>
        client.chat(body).then(() => null, (error) => error),
      ),
    );
    hold(errors[0]?.status_code === 404 && errors[0].message.includes("llama3.2"), String(errors[0]));
    hold(errors[1]?.status_code === 400 && errors[1].message.includes("options.temperature"), String(errors[1]));
  },
  "aborting a stream cancels its job": () => leaving(async () => {
    const stream = await client.chat({ model: MODEL, messages, stream: true, options: { num_predict: -1, temperature: 2 } });
    try {
      for await (const _ of stream) stream.abort();
    } catch (error) {
      hold(error.name === "AbortError", String(error));
    }
  }),
});
