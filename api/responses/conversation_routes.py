"""/v1/conversations: create, retrieve, update, delete; their items: add, list, retrieve, remove."""

import re
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from flask import Blueprint, request

from api.gate.body import read_body
from api.jobs.service import Service
from api.request.pages import list_of
from api.request.submission import new_id
from api.responses.conversations import check_free, conversation, in_store, items_in
from api.responses.listing import LOGPROBS, item_page, listed_item
from api.schema.base import MetadataChange
from api.schema.parse import parse
from api.schema.response_items import AddedItems, InputItem, NewConversation, ReferenceItem
from common.errors import InvalidRequest, NotFound
from common.records import conversations as sql
from common.records.conversations import ConversationRow
from common.records.database import Connection

PREFIXES: Mapping[str, str] = MappingProxyType(
    {"message": "msg_", "reasoning": "rs_", "function_call": "fc_", "function_call_output": "fco_"}
)

ITEM_ID = re.compile(r"[!-~]{1,256}")


def conversation_routes(service: Service) -> Blueprint:
    routes = Blueprint("conversations", __name__)
    add_conversations(routes, service)
    add_items(routes, service)
    return routes


def add_conversations(routes: Blueprint, service: Service) -> None:
    @routes.post("/v1/conversations")
    def create() -> dict[str, Any]:
        caller = service.keys.caller(request)
        raw = read_body(request)
        body = parse(NewConversation, raw)
        items = new_items(body.items or (), raw.get("items") or (), taken=set())
        fields = {
            "id": new_id("conv_"),
            "owner": caller.owner,
            "created": float(int(time.time())),
            "metadata": known_metadata(body.metadata),
        }
        in_store(service, _create, fields, items)
        return shown(fields["id"], fields["created"], fields["metadata"])

    @routes.get("/v1/conversations/<conversation_id>")
    def retrieve(conversation_id: str) -> dict[str, Any]:
        return _shown(conversation(service, service.keys.caller(request).owner, conversation_id))

    @routes.post("/v1/conversations/<conversation_id>")
    def update(conversation_id: str) -> dict[str, Any]:
        row = conversation(service, service.keys.caller(request).owner, conversation_id)
        metadata = known_metadata(parse(MetadataChange, read_body(request)).metadata)
        in_store(service, sql.set_conversation_metadata, row.id, metadata)
        return shown(row.id, row.created, metadata)

    @routes.delete("/v1/conversations/<conversation_id>")
    def delete(conversation_id: str) -> dict[str, Any]:
        row = conversation(service, service.keys.caller(request).owner, conversation_id)
        in_store(service, sql.delete_conversation, row.id, service.settings.store.ttl)
        return {"id": row.id, "object": "conversation.deleted", "deleted": True}


def add_items(routes: Blueprint, service: Service) -> None:
    def found(conversation_id: str) -> ConversationRow:
        return conversation(service, service.keys.caller(request).owner, conversation_id)

    def items_of(row: ConversationRow) -> list[dict[str, Any]]:
        return items_in(service, request, row.owner, row.id)

    @routes.post("/v1/conversations/<conversation_id>/items")
    def add(conversation_id: str) -> dict[str, Any]:
        row = found(conversation_id)
        raw = read_body(request)
        body = parse(AddedItems, raw)
        check_free(service, row)
        taken = {item.get("id") for item in items_of(row)}
        items = new_items(body.items, raw["items"], taken)
        in_store(service, sql.add_items, row.id, items)
        return list_of([shown_item(item, included()) for item in items])

    @routes.get("/v1/conversations/<conversation_id>/items")
    def listed(conversation_id: str) -> dict[str, Any]:
        items = items_of(found(conversation_id))
        return item_page([shown_item(item, included()) for item in items], request, "conversation")

    @routes.get("/v1/conversations/<conversation_id>/items/<item_id>")
    def one(conversation_id: str, item_id: str) -> dict[str, Any]:
        return shown_item(item_named(items_of(found(conversation_id)), item_id), included())

    @routes.delete("/v1/conversations/<conversation_id>/items/<item_id>")
    def remove(conversation_id: str, item_id: str) -> dict[str, Any]:
        row = found(conversation_id)
        item_named(items_of(row), item_id)
        in_store(service, sql.remove_item, row.id, item_id)
        return _shown(row)


def _create(connection: Connection, fields: dict[str, Any], items: Sequence[dict[str, Any]]) -> None:
    sql.add_conversation(connection, fields)
    sql.add_items(connection, fields["id"], items)


def new_items(items: Sequence[InputItem], raw: Sequence[Any], taken: set[Any]) -> list[dict[str, Any]]:
    """As they are stored: as they were sent, with a new id where there is none, or one that is taken."""
    found = []
    for number, (item, sent) in enumerate(zip(items, raw, strict=True)):
        if isinstance(item, ReferenceItem):
            raise InvalidRequest(f"'items[{number}]' is a reference; send the item itself.", param=f"items[{number}]")
        fields = sent | {"type": sent.get("type") or "message"}
        item_id = fields.get("id")
        if not isinstance(item_id, str) or not ITEM_ID.fullmatch(item_id) or item_id in taken:
            item_id = new_id(PREFIXES.get(fields["type"], "item_"))
        taken.add(item_id)
        found.append(fields | {"id": item_id})
    return found


def item_named(items: Sequence[dict[str, Any]], item_id: str) -> dict[str, Any]:
    """Raises NotFound."""
    found = next((item for item in items if item.get("id") == item_id), None)
    if found is None:
        raise NotFound(f"Item with id '{item_id[:64]}' not found in this conversation.")
    return found


def shown_item(item: dict[str, Any], include: Sequence[str]) -> dict[str, Any]:
    """As OpenAI shows it, whoever wrote it: with a status, and with logprobs where they are asked for."""
    shown = {"status": "completed"} | listed_item(item)
    if shown["type"] != "message" or not isinstance(shown.get("content"), list):
        return shown
    empty: dict[str, Any] = {"annotations": [], "logprobs": []}
    hidden: dict[str, Any] = {} if LOGPROBS in include else {"logprobs": []}
    parts = [empty | part | hidden if part.get("type") == "output_text" else part for part in shown["content"]]
    return shown | {"content": parts}


def included() -> list[str]:
    """The query's `include`, as OpenAI's SDKs write lists."""
    return [value for name in ("include[]", "include") for value in request.args.getlist(name)]


def known_metadata(metadata: dict[str, str | None] | None) -> dict[str, str]:
    return {name: value for name, value in (metadata or {}).items() if value is not None}


def _shown(row: ConversationRow) -> dict[str, Any]:
    return shown(row.id, row.created, row.metadata)


def shown(conversation_id: Any, created: Any, metadata: Any) -> dict[str, Any]:
    return {"id": conversation_id, "object": "conversation", "created_at": int(created), "metadata": metadata}
