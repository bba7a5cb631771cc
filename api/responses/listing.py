"""Lists of items, by pages, as OpenAI shows them."""

from collections.abc import Sequence
from typing import Any

from flask import Request

from api.request.pages import list_of, page_size
from common.errors import InvalidRequest

LOGPROBS = "message.output_text.logprobs"


def page_of(items: Sequence[dict[str, Any]], http: Request, owner: str) -> dict[str, Any]:
    """The page that the query asks for: newest first unless it says otherwise. `owner`: what the items belong to."""
    listed = [listed_item(item) for item in items]
    order = http.args.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest("'order' must be 'asc' or 'desc'.", param="order")
    if order == "desc":
        listed.reverse()
    ids = [item.get("id") for item in listed]
    after = http.args.get("after")
    if after is not None and after not in ids:
        raise InvalidRequest(f"'after' is not the id of an item of this {owner}.", param="after")
    start = 0 if after is None else ids.index(after) + 1
    page = listed[start : start + page_size(http)]
    return list_of(page, has_more=start + len(page) < len(listed))


def listed_item(item: dict[str, Any]) -> dict[str, Any]:
    """With the content of a message as a list of parts."""
    if item["type"] == "message" and isinstance(item.get("content"), str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        return item | {"content": [{"type": kind, "text": item["content"]}]}
    return item
