"""Bytes of a request -> a JSON object, or a refusal that says why. Strict; bounded in size, depth and time."""

import json
from typing import Any

import orjson
from flask import Request, current_app
from gevent import Timeout
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge

from api.auth import presented_key
from common.errors import BodyTooLarge, InvalidRequest, OmniError
from common.keys import owner_of

MAX_BODY_BYTES = 8 * 1024 * 1024
BODY_DEADLINE_S = 10.0
MAX_DEPTH = 64


def read_body(request: Request) -> dict[str, Any]:
    """The request's JSON object, of a caller who is known.

    Raises InvalidRequest, BodyTooLarge, Overloaded, or OmniError `request_timeout`.
    """
    if request.mimetype != "application/json":
        raise OmniError("Send the body as JSON, with 'Content-Type: application/json'.", code="unsupported_media_type")
    announced = MAX_BODY_BYTES if request.content_length is None else min(request.content_length, MAX_BODY_BYTES)
    with current_app.extensions["omni"].bodies.held(owner_of(presented_key(request)), announced):
        return _body(request)


def _body(request: Request) -> dict[str, Any]:
    try:
        with Timeout(BODY_DEADLINE_S):
            raw = request.get_data(cache=False)
    except Timeout:
        raise OmniError(f"The body did not arrive within {BODY_DEADLINE_S:.0f} s.", code="request_timeout") from None
    except RequestEntityTooLarge:
        raise BodyTooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes.") from None
    except (ClientDisconnected, OSError):
        raise InvalidRequest("The body ended before its announced length.") from None
    except ParseException:
        raise InvalidRequest("The body's chunks are not well formed.") from None
    return parse_object(raw)


def parse_object(raw: bytes) -> dict[str, Any]:
    """Refuses NaN, infinities, lone surrogates, other encodings than UTF-8, repeated names and deep nesting."""
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None
    if not isinstance(value, dict):
        raise InvalidRequest("The body must be a JSON object.")
    check_depth(value)
    parsed: dict[str, Any] = json.loads(raw, object_pairs_hook=_without_repeats, parse_int=_bounded_int)
    return parsed


def check_depth(value: Any) -> None:
    """Raises InvalidRequest when lists and objects are nested deeper than MAX_DEPTH."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return
    raise InvalidRequest(f"The body is nested deeper than {MAX_DEPTH} levels.")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise InvalidRequest(f"The name {repeated[:64]!r} stands twice in one object.", param=repeated[:64])
    return found


def _bounded_int(text: str) -> int:
    if len(text) > 20:
        raise InvalidRequest("The body holds a whole number of more than 20 digits.")
    return int(text)
