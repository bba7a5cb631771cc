"""The stored responses that a request refers to: the conversation that it continues, and single items by their ids."""

import re
from dataclasses import dataclass, field
from typing import Any

from api.gate.auth import Caller
from api.gate.body import MAX_BODY_BYTES
from api.jobs.call import Call
from api.jobs.service import Service
from api.jobs.serving import Delivery, StoredAnswer, reopen, stored
from api.request.submission import new_id
from api.responses.chunks import RESPONSE, ResponsesMeta
from api.schema.parse import known_only
from api.schema.response_items import InputItem, ReferenceItem, StoredItems
from api.schema.responses import ResponsesRequest
from common.errors import InvalidRequest, NotFound, PreviousResponseNotFound
from common.json_bytes import json_bytes

ITEM_ID = re.compile(r"[a-z]+_([0-9a-f]{32})\d{2,}")  # as numbered_items() and chunks.py make them
MAX_REFERENCED = 16  # responses that the references of one request are looked up in


@dataclass(frozen=True, slots=True)
class ResponseTurn:
    """A new response: its id, the items before the request's own, and the conversation that they are."""

    response_id: str
    context: list[dict[str, Any]]
    conversation_id: str = ""


@dataclass(frozen=True, slots=True)
class History:
    """The items before a request (`context`), and its own with references resolved, as they are stored."""

    context: list[dict[str, Any]]
    own: list[dict[str, Any]]


def parsed_items(history: History) -> list[InputItem]:
    """All items of the conversation, in order."""
    return StoredItems.model_validate({"items": [*history.context, *history.own]}).items


def turn_of(call: Call[ResponsesRequest]) -> ResponseTurn:
    """The turn of a response outside of conversations. Raises InvalidRequest."""
    return ResponseTurn(new_id("resp_"), context_of(call))


def history_of(call: Call[ResponsesRequest], turn: ResponseTurn) -> History:
    """Raises InvalidRequest or NotFound. The ids of the request's items repeat that of the new response."""
    return History(turn.context, numbered_items(Resolver(call).resolved(turn.context), turn.response_id))


def context_of(call: Call[ResponsesRequest]) -> list[dict[str, Any]]:
    """All items up to the end of `previous_response_id`. Raises InvalidRequest."""
    response_id = call.body.previous_response_id
    if response_id is None:
        return []
    try:
        found = stored_response(call.service, call.caller, response_id)
    except NotFound as error:
        raise PreviousResponseNotFound(error.message, param="previous_response_id") from None
    [job] = found.jobs
    if job.state != "finished":
        raise InvalidRequest(
            f"'previous_response_id' is {job.state}; only a finished response can be continued.",
            param="previous_response_id",
        )
    return items_of(call, found)


def stored_response(service: Service, caller: Caller, response_id: str) -> StoredAnswer[ResponsesMeta]:
    """Raises NotFound also for a response that was sent with `store: false`."""
    found = stored(service, caller, RESPONSE, response_id)
    if not found.meta.store:
        raise NotFound("This response was not stored ('store': false).")
    return found


def items_of(call: Call[ResponsesRequest], found: StoredAnswer[ResponsesMeta]) -> list[dict[str, Any]]:
    """A stored response's context, input and output."""
    answer = reopen(call.service, call.http, found, Delivery(failure_is_body=True))
    return [*found.meta.context, *found.meta.input, *answer.body()["output"]]


@dataclass(slots=True)
class Resolver:
    """Replaces references by the items they name. An item's id holds that of its response, so none is searched for."""

    call: Call[ResponsesRequest]
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    num_read: int = 0

    def resolved(self, context: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The request's items as they are stored. A reference to an item that is there says nothing new."""
        body, raw = self.call.body, self.call.raw
        if body.input is None:
            return []
        if isinstance(body.input, str):
            return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": body.input}]}]
        known = {item.get("id") for item in context}
        sent = known_only(body.input, raw["input"])
        first: dict[str, int] = {}  # number of the first reference to each item
        for number, item in enumerate(body.input):
            if isinstance(item, ReferenceItem) and item.id not in known:
                first.setdefault(item.id, number)
        # Backwards: the newest response holds the items of those before it too.
        found = {number: self._item(item_id, f"input[{number}].id") for item_id, number in reversed(first.items())}
        if sum(len(json_bytes(item)) for item in found.values()) > MAX_BODY_BYTES:
            raise InvalidRequest("The items that 'input' refers to are too large together.", param="input")
        return [
            found.get(number, sent[number])
            for number, item in enumerate(body.input)
            if number in found or not isinstance(item, ReferenceItem)
        ]

    def _item(self, item_id: str, param: str) -> dict[str, Any]:
        if item_id not in self.found and (match := ITEM_ID.fullmatch(item_id)):
            self._read(f"resp_{match[1]}", param)
        if item_id not in self.found:
            raise NotFound(
                f"'{param}': there is no item {item_id[:64]!r} of a stored response of this key. Send the item itself.",
                param=param,
            )
        return self.found[item_id]

    def _read(self, response_id: str, param: str) -> None:
        if self.num_read == MAX_REFERENCED:
            raise InvalidRequest(
                f"'input' refers to items of more than {MAX_REFERENCED} responses; send the items themselves.",
                param=param,
            )
        self.num_read += 1
        try:
            response = stored_response(self.call.service, self.call.caller, response_id)
        except NotFound:
            return
        if not response.has_ended:
            raise InvalidRequest(f"'{param}': its response is still being generated.", param=param)
        self.found |= {item["id"]: item for item in items_of(self.call, response) if "id" in item}


def numbered_items(items: list[dict[str, Any]], response_id: str) -> list[dict[str, Any]]:
    """Each item with an id, a text, so that it can be listed and referred to, and with its type."""
    stem = response_id.removeprefix("resp_")
    return [
        {"type": "message"}
        | {name: value for name, value in item.items() if value is not None}
        | {"id": item["id"] if isinstance(item.get("id"), str) else f"item_{stem}{number:03d}"}
        for number, item in enumerate(items)
    ]
