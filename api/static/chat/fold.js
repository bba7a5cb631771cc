// Chunks folded into a message. Pure: no network, no page, no clock.

import { contentOf } from "./attachments.js";
import { toFields } from "./options.js";

/** Adds one chat.completion.chunk to the message. Returns true if it added text, reasoning or calls. */
export function fold(message, chunk) {
  if (chunk.error) {
    const { message: text, code = null, param = null } = chunk.error;
    message.error = { message: text, code, param, status: 200, retryAfter: null };
    return false;
  }
  if (chunk.model) message.model = chunk.model;
  if (chunk.usage) message.usage = chunk.usage;
  const choice = chunk.choices?.[0];
  if (!choice) return false;
  if (choice.finish_reason) message.finishReason = choice.finish_reason;
  const { content, refusal, tool_calls: calls, ...delta } = choice.delta ?? {};
  const reasoning = delta.reasoning_content ?? delta.reasoning; // both names are in use
  message.content += (content ?? "") + (refusal ?? "");
  message.reasoning += reasoning ?? "";
  for (const call of calls ?? []) foldCall(message.toolCalls, call);
  return Boolean(content || refusal || reasoning || calls?.length);
}

function foldCall(toolCalls, { index = 0, id, function: { name, arguments: text } = {} }) {
  toolCalls[index] ??= { id: "", name: "", arguments: "" };
  const call = toolCalls[index];
  if (id) call.id = id;
  if (name) call.name = name;
  call.arguments += text ?? "";
}

/** The tool calls of an answer that ended with them; in one that was cut off they may be incomplete. */
export function wholeCalls({ finishReason, toolCalls = [] }) {
  return finishReason === "tool_calls" ? toolCalls : [];
}

/** The message in the API's form, without its reasoning, which models do not expect back. `isTextOnly`: without images. */
export function toApi(message, isTextOnly) {
  const { role, toolCallId } = message;
  const content = contentOf(message, isTextOnly);
  if (role === "tool") return { role, content, tool_call_id: toolCallId };
  if (wholeCalls(message).length === 0) return { role, content };
  const calls = wholeCalls(message).map((call) => ({
    id: call.id,
    type: "function",
    function: { name: call.name, arguments: call.arguments },
  }));
  return { role, content: content || null, tool_calls: calls };
}

/** Without those that say nothing. */
export const worthSending = (messages) =>
  messages.filter((message) => message.content || message.attachments?.length || wholeCalls(message).length);

/** The request body for an answer to `messages`. `isTextOnly`: the model reads no images. */
export function toRequest(messages, { options, isTextOnly = false }) {
  const system = options.system?.trim() ? [{ role: "system", content: options.system }] : [];
  return {
    model: options.model,
    messages: [...system, ...worthSending(messages).map((message) => toApi(message, isTextOnly))],
    stream: true,
    background: true, // the job goes on when this page is closed
    stream_options: { include_usage: true, include_event_ids: true }, // needed to resume a broken stream
    ...toFields(options),
  };
}

/** The request body for more of an answer: what there is of it is the last message, and the model goes on within its text, or
 * within its reasoning if there is no text yet. */
export function toContinue(messages, message) {
  const body = toRequest(messages, message);
  const reasoning = message.reasoning ? { reasoning_content: message.reasoning } : {};
  body.messages.push({ role: "assistant", content: message.content, ...reasoning });
  return { ...body, continue_final_message: true, add_generation_prompt: false };
}
