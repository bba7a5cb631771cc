"""The files of results: one line for each request, in the order of the input, in OpenAI's or Anthropic's words."""

import hashlib
from collections.abc import Iterable, Iterator
from types import MappingProxyType
from typing import Any

import orjson

from common.records.batch_work import EndStatus, OpenBatch

OUTPUT, ERRORS = "output_file_id", "error_file_id"  # the batch's columns
# How OpenAI explains the lines that were not run.
NOT_RUN = MappingProxyType(
    {
        "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
        "cancelled": ("batch_cancelled", "This request was not executed because the batch was cancelled."),
    }
)
ANTHROPICS_NOT_RUN = MappingProxyType({"expired": "expired", "cancelled": "canceled"})

Recorded = Any  # a row of batch_lines


def id_of(batch: OpenBatch, kind: str) -> str:
    """The same for each attempt to write a batch's files, so that one replaces the other."""
    return f"file-{hashlib.sha256(f'{batch.id}:{kind}'.encode()).hexdigest()[:32]}"


def filename_of(batch: OpenBatch, kind: str) -> str:
    return f"{batch.id}_{'output' if kind == OUTPUT else 'error'}.jsonl"


def result_line(batch: OpenBatch, row: Recorded) -> tuple[str, bytes]:
    """The file, and the line, of a request that was answered."""
    is_good = row.outcome == "succeeded"
    if batch.is_anthropics:
        result = b'{"type":"succeeded","message":%b}' if is_good else b'{"type":"errored","error":%b}'
        return OUTPUT, b'{"custom_id":%b,"result":%b}\n' % (orjson.dumps(row.custom_id), result % row.body)
    line = b'{"id":%b,"custom_id":%b,"response":{"status_code":%d,"request_id":%b,"body":%b},"error":null}\n' % (
        orjson.dumps(request_id(batch, row.number)),
        orjson.dumps(row.custom_id),
        row.status_code,
        orjson.dumps(row.request_id or ""),
        row.body,
    )
    return (OUTPUT if is_good else ERRORS), line


def line_not_run(batch: OpenBatch, number: int, custom_id: str, status: EndStatus) -> tuple[str, bytes]:
    """The file, and the line, of a request that the end of its batch forestalled."""
    if batch.is_anthropics:
        value: dict[str, Any] = {"custom_id": custom_id, "result": {"type": ANTHROPICS_NOT_RUN[status]}}
        return OUTPUT, orjson.dumps(value) + b"\n"
    code, message = NOT_RUN[status]
    value = {"id": request_id(batch, number), "custom_id": custom_id, "response": None}
    return ERRORS, orjson.dumps(value | {"error": {"code": code, "message": message}}) + b"\n"


def result_lines(
    batch: OpenBatch, requests: Iterable[tuple[int, str]], recorded: Iterator[Recorded], status: EndStatus
) -> Iterator[tuple[str, bytes]]:
    """Every request of the batch once: (file, line). `requests`: number and custom_id, in order; so is `recorded`."""
    row = next(recorded, None)
    for number, custom_id in requests:
        if row is not None and row.number == number:
            yield result_line(batch, row)
            row = next(recorded, None)
        else:
            yield line_not_run(batch, number, custom_id, status)


def request_id(batch: OpenBatch, number: int) -> str:
    return f"batch_req_{hashlib.sha256(f'{batch.id}:{number}'.encode()).hexdigest()[:24]}"
