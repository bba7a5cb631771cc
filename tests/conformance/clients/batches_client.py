"""openai and anthropic: files and batches from the upload to the results, worked off by the dispatcher."""

import json
import time
from typing import Any

import anthropic
import openai
from checks import HELLO, KEY, MODEL, URL, run

CHAT = "/v1/chat/completions"
MESSAGES: Any = [{"role": "user", "content": HELLO}]
WAIT_S = 120
client = openai.OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0)
claude = anthropic.Anthropic(base_url=URL, api_key=KEY, max_retries=0)


def lines(number: int, model: str = MODEL) -> bytes:
    body = {"model": model, "messages": MESSAGES, "max_tokens": 5}
    requests = [{"custom_id": f"r{at}", "method": "POST", "url": CHAT, "body": body} for at in range(number)]
    return b"".join(json.dumps(request).encode() + b"\n" for request in requests)


def upload(data: bytes) -> str:
    return client.files.create(file=("in.jsonl", data), purpose="batch").id


def ended(batch_id: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while True:
        batch = client.batches.retrieve(batch_id)
        if batch.status in ("completed", "failed", "expired", "cancelled"):
            return batch
        assert time.monotonic() < deadline, batch
        time.sleep(0.2)


def a_file_is_uploaded_listed_read_and_deleted() -> None:
    made = client.files.create(
        file=("a.txt", b"0123456789"),
        purpose="user_data",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert (made.object, made.bytes, made.filename, made.status) == ("file", 10, "a.txt", "processed")
    assert made.expires_at == made.created_at + 3600
    assert made in list(client.files.list(purpose="user_data"))
    assert client.files.content(made.id).text == "0123456789"
    assert client.files.content(made.id, extra_headers={"Range": "bytes=2-4"}).text == "234"
    assert client.files.delete(made.id).deleted


def a_batch_answers_each_line_once() -> None:
    batch = client.batches.create(
        input_file_id=upload(lines(20)), endpoint=CHAT, completion_window="24h", metadata={"a": "b"}
    )
    assert batch.status == "validating" and next(iter(client.batches.list(limit=1))).id == batch.id  # it may have begun
    batch = ended(batch.id)
    assert batch.status == "completed" and batch.metadata == {"a": "b"} and batch.request_counts
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (20, 20, 0)
    results = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    assert sorted(result["custom_id"] for result in results) == sorted(f"r{at}" for at in range(20))
    usage = [result["response"]["body"]["usage"] for result in results]
    assert batch.usage and batch.usage.input_tokens == sum(one["prompt_tokens"] for one in usage)
    assert batch.usage.output_tokens == sum(one["completion_tokens"] for one in usage)


def a_bad_line_costs_itself_only_and_a_bad_file_names_its_line() -> None:
    mixed = lines(2) + lines(1, model="no-such-model").replace(b"r0", b"bad")
    batch = ended(client.batches.create(input_file_id=upload(mixed), endpoint=CHAT, completion_window="1h").id)
    assert batch.status == "completed" and batch.request_counts and batch.request_counts.failed == 1
    [error] = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
    assert error["custom_id"] == "bad" and error["response"]["status_code"] == 404
    broken = ended(
        client.batches.create(input_file_id=upload(lines(1) + b"{\n"), endpoint=CHAT, completion_window="1h").id
    )
    assert broken.status == "failed" and [fault.line for fault in broken.errors.data] == [2]


def messages_batches_are_created_awaited_read_and_deleted() -> None:
    params: Any = {"model": MODEL, "max_tokens": 5, "messages": MESSAGES}
    bad = params | {"model": "no-such-model"}
    batch = claude.messages.batches.create(
        requests=[*({"custom_id": f"r{at}", "params": params} for at in range(5)), {"custom_id": "bad", "params": bad}]
    )
    assert batch.processing_status == "in_progress" and batch.request_counts.processing == 6
    deadline = time.monotonic() + WAIT_S
    while claude.messages.batches.retrieve(batch.id).processing_status != "ended":
        assert time.monotonic() < deadline
        time.sleep(0.2)
    counts = claude.messages.batches.retrieve(batch.id).request_counts
    assert (counts.processing, counts.succeeded, counts.errored) == (0, 5, 1)
    results = {result.custom_id: result.result for result in claude.messages.batches.results(batch.id)}
    assert results["bad"].type == "errored" and results["bad"].error.error.type == "not_found_error"
    assert results["r0"].type == "succeeded" and results["r0"].message.usage.output_tokens <= 5
    assert batch.id in [found.id for found in claude.messages.batches.list(limit=5)]
    assert claude.messages.batches.delete(batch.id).type == "message_batch_deleted"


def a_canceled_batch_keeps_what_was_done() -> None:
    batch = client.batches.create(input_file_id=upload(lines(2000)), endpoint=CHAT, completion_window="24h")
    cancelled = client.batches.cancel(batch.id)
    assert cancelled.status == "cancelling" and cancelled.cancelling_at
    batch = ended(batch.id)
    assert batch.status == "cancelled" and batch.request_counts and batch.request_counts.completed < 2000


run(
    a_file_is_uploaded_listed_read_and_deleted,
    a_batch_answers_each_line_once,
    a_bad_line_costs_itself_only_and_a_bad_file_names_its_line,
    messages_batches_are_created_awaited_read_and_deleted,
    a_canceled_batch_keeps_what_was_done,
)
