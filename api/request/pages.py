"""Lists by pages: the size that the query asks for, and OpenAI's envelope."""

from collections.abc import Sequence
from typing import Any

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


def list_of(page: Sequence[dict[str, Any]], *, has_more: bool = False) -> dict[str, Any]:
    return {
        "object": "list",
        "data": page,
        "first_id": page[0].get("id") if page else None,
        "last_id": page[-1].get("id") if page else None,
        "has_more": has_more,
    }
