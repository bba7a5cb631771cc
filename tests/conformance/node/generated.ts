// A program against the types that openapi-typescript makes of /openapi.json: generated.mjs compiles and runs it.

import createClient from "openapi-fetch";
import type { paths } from "./openapi.js";

export async function chat(baseUrl: string, key: string, model: string) {
  const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${key}` } });
  const { data, error } = await client.POST("/v1/chat/completions", {
    body: { model, messages: [{ role: "user", content: "Hello!" }], max_tokens: 8 },
  });
  if (error) throw new Error(error.error.message);
  if (typeof data !== "object") throw new Error("a stream");
  const text: string | null | undefined = data.choices[0]?.message.content;
  const { data: job } = await client.GET("/v1/jobs/{job_id}", { params: { path: { job_id: data.id } } });
  const state: "queued" | "running" | "finished" | "failed" | "cancelled" | undefined = job?.state;
  return { text, state };
}

export async function refusal(baseUrl: string, key: string) {
  const client = createClient<paths>({ baseUrl, headers: { Authorization: `Bearer ${key}` } });
  const { error } = await client.GET("/v1/models/{name}", { params: { path: { name: "nothing" } } });
  return error?.error.code;
}
