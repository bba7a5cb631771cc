"""The items of a conversation, and the responses that belong to one: enqueue_turn().

A response's items are not copied into its conversation: an entry refers to the response, and the items are derived from
its log on reading. So they are there exactly once, whatever dies, and as soon as the response has finished.
"""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from api.jobs.archive.answers import archived
from api.jobs.call import Call
from api.jobs.service import Service
from api.jobs.serving import Delivery, PendingAnswer, StoredAnswer, answer_of, enqueue, reopen
from api.process.offload import in_store_thread
from api.request.submission import new_id
from api.responses.chunks import RESPONSE, ResponsesMeta
from api.responses.history import ResponseTurn, turn_of
from api.responses.prepare import check_together, prepare
from api.schema.responses import ResponsesRequest
from common.errors import ConversationLocked, NotFound
from common.json_bytes import json_bytes
from common.records import conversations as sql
from common.records.archive import packed, unpacked
from common.records.conversations import ConversationRow, EntryRow
from common.records.database import Connection, Records

CONVERSATION_ID = re.compile(r"conv_[0-9a-f]{32}")  # others are not asked for: not every text can be one in SQL
SUBMIT_S = 30.0  # how long a response that has begun may not be in the queue yet
BUSY = "Another process is currently operating on this conversation. Please retry in a few seconds."


def conversation(service: Service, owner: str, conversation_id: str) -> ConversationRow:
    """Raises NotFound also for another key's."""
    found: ConversationRow | None = None
    if CONVERSATION_ID.fullmatch(conversation_id):
        found = in_store_thread(_conversation, service.records, owner, conversation_id)
    if found is None:
        raise NotFound(f"Conversation with id '{conversation_id[:64]}' not found.")
    return found


def _conversation(records: Records, owner: str, conversation_id: str) -> ConversationRow | None:
    with records.read() as connection:
        return sql.conversation_of(connection, owner, conversation_id)


def in_store(service: Service, work: Callable[..., Any], *args: Any) -> Any:
    """work(connection, *args) in one transaction that may write, in a thread."""

    def done() -> Any:
        with service.records.begin() as connection:
            return work(connection, *args)

    return in_store_thread(done)


def enqueue_turn(call: Call[ResponsesRequest]) -> PendingAnswer[ResponsesMeta]:
    """Enqueue a response. Its conversation, if it has one, takes nothing else until it has ended.

    Raises what prepare() and enqueue() do, NotFound or ConversationLocked.
    """
    check_together(call.body)
    if call.body.conversation is None:
        return enqueue(call, RESPONSE, prepare(call, turn_of(call)))
    row = conversation(call.service, call.caller.owner, call.body.conversation.id)
    response_id = new_id("resp_")
    if not _is_repeated(call):
        begin(call.service, row, response_id)
    try:
        turn = ResponseTurn(response_id, conversation_items(call, row.id), row.id)
        pending = enqueue(call, RESPONSE, prepare(call, turn))
    except BaseException:
        in_store(call.service, sql.drop_response, row.id, response_id)
        raise
    if pending.meta.id != response_id:
        in_store(call.service, sql.drop_response, row.id, response_id)
    return pending


def turn_to_count(call: Call[ResponsesRequest]) -> ResponseTurn:
    """As that of a new response, which there will not be."""
    check_together(call.body)
    if call.body.conversation is None:
        return turn_of(call)
    row = conversation(call.service, call.caller.owner, call.body.conversation.id)
    return ResponseTurn(new_id("resp_"), conversation_items(call, row.id), row.id)


def begin(service: Service, row: ConversationRow, response_id: str) -> None:
    """Raises ConversationLocked while another response has not ended, or is faster."""
    check_free(service, row)
    now = time.time()
    if not in_store(service, sql.begin_response, row.id, response_id, row.busy_with, now):
        raise ConversationLocked(BUSY, param="conversation")


def check_free(service: Service, row: ConversationRow) -> None:
    """Raises ConversationLocked."""
    if row.busy_with is None:
        return
    state = service.store.jobs.state(row.busy_with)
    is_new = not state and time.time() - row.busy_since < SUBMIT_S
    if state in ("queued", "running") or (is_new and archived(service, row.owner, row.busy_with) is None):
        raise ConversationLocked(BUSY, param="conversation")


def _is_repeated(call: Call[ResponsesRequest]) -> bool:
    """The Idempotency-Key stands for a response already: it may be the very one that the conversation is busy with."""
    key = call.http.headers.get("Idempotency-Key", "")
    return bool(key) and bool(call.service.store.job_of_key(call.caller.owner, key))


def conversation_items(call: Call[Any], conversation_id: str) -> list[dict[str, Any]]:
    """All items, in order."""
    return items_in(call.service, call.http, call.caller.owner, conversation_id)


def items_in(service: Service, http: Any, owner: str, conversation_id: str) -> list[dict[str, Any]]:
    """All items, in order. Those of responses that have not finished, or have failed, are not among them."""
    entries = in_store_thread(_entries, service.records, conversation_id)
    removed = {entry.item_id for entry, _ in entries if entry.removed}
    items: list[dict[str, Any]] = []
    for entry, known in entries:
        if entry.response_id is not None:
            items += known if known is not None else _derived(service, http, owner, entry)
        elif not entry.removed:
            items.append(entry.item)
    return [item for item in items if item.get("id") not in removed]


def _entries(records: Records, conversation_id: str) -> list[tuple[EntryRow, list[dict[str, Any]] | None]]:
    """The entries with the items of responses, as far as they were derived before."""
    with records.read() as connection:
        rows = sql.entries_of(connection, conversation_id)
    return [(row, orjson.loads(unpacked(row.derived)) if row.derived else None) for row in rows]


def _derived(service: Service, http: Any, owner: str, entry: EntryRow) -> list[dict[str, Any]]:
    """A response's input and output. Those of an archived one are kept: the next reader need not derive them."""
    found = _response(service, owner, entry)
    if found is None or found.jobs[0].state != "finished":
        return []
    answer = reopen(service, http, found, Delivery(failure_is_body=True))
    items = [*found.meta.input, *answer.body()["output"]]
    if found.log is not None:
        in_store(service, _keep, entry.response_id, items)
    return items


def _keep(connection: Connection, response_id: str, items: Sequence[dict[str, Any]]) -> None:
    sql.keep_items(connection, response_id, packed(json_bytes(items)))


def _response(service: Service, owner: str, entry: EntryRow) -> StoredAnswer[ResponsesMeta] | None:
    """From the store, also one that was deleted or not stored for itself, else from Redis."""
    kept = archived(service, owner, entry.response_id, with_hidden=True) if entry.state else None
    if kept is not None:
        return answer_of(RESPONSE, [kept.job], kept.log)
    job = service.store.jobs.get(entry.response_id)
    return None if job is None or job.owner != owner else answer_of(RESPONSE, [job])
