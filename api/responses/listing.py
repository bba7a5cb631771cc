"""Lists of items, by pages, as OpenAI shows them."""

from collections.abc import Sequence
from typing import Any

from flask import Request

from api.request.pages import page_of

LOGPROBS = "message.output_text.logprobs"


def item_page(items: Sequence[dict[str, Any]], http: Request, owner: str) -> dict[str, Any]:
    """`owner`: what the items belong to. Raises InvalidRequest."""
    return page_of([listed_item(item) for item in items], http, f"an item of this {owner}")


def listed_item(item: dict[str, Any]) -> dict[str, Any]:
    """With the content of a message as a list of parts."""
    if item["type"] == "message" and isinstance(item.get("content"), str):
        kind = "output_text" if item.get("role") == "assistant" else "input_text"
        return item | {"content": [{"type": kind, "text": item["content"]}]}
    return item
