"""Lists by pages: the order, size and place that the query asks for, and OpenAI's envelope."""

from collections.abc import Sequence
from typing import Any, Literal

from flask import Request

from common.errors import InvalidRequest

DEFAULT_PAGE = 20
MAX_PAGE = 100


def page_size(request: Request, *, default: int = DEFAULT_PAGE, most: int = MAX_PAGE) -> int:
    """The query's `limit`. Raises InvalidRequest."""
    text = request.args.get("limit") or str(default)
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= most):
        raise InvalidRequest(f"'limit' must be a whole number from 1 to {most}.", param="limit")
    return int(text)


def is_descending(request: Request, default: Literal["asc", "desc"] = "desc") -> bool:
    """The query's `order`. Raises InvalidRequest."""
    order = request.args.get("order", default)
    if order not in ("asc", "desc"):
        raise InvalidRequest("'order' must be 'asc' or 'desc'.", param="order")
    return order == "desc"


def page_of(
    items: Sequence[dict[str, Any]], request: Request, what: str, default: Literal["asc", "desc"] = "desc"
) -> dict[str, Any]:
    """The page of these items, the oldest of which is first. `what`: each is. Raises InvalidRequest."""
    items = items[::-1] if is_descending(request, default) else items
    ids = [item.get("id") for item in items]
    after = request.args.get("after")
    if after and after not in ids:
        raise InvalidRequest(f"'after' is not the id of {what}.", param="after")
    start = ids.index(after) + 1 if after else 0
    end = start + page_size(request)
    return list_of(items[start:end], has_more=end < len(items))


def list_of(page: Sequence[dict[str, Any]], *, has_more: bool = False) -> dict[str, Any]:
    return {
        "object": "list",
        "data": page,
        "first_id": page[0].get("id") if page else None,
        "last_id": page[-1].get("id") if page else None,
        "has_more": has_more,
    }
