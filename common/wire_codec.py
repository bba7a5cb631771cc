"""The messages of common/wire.py as JSON.

pydantic decodes requests, cards and final events, strictly. An unknown field is refused in a request, because ignoring
it would change the answer; it is ignored in events and cards, so that a newer worker can serve an older API. orjson
encodes, and a delta is decoded by hand: both happen for every token, and pydantic is slower at them.
"""

from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast

import orjson
from pydantic import TypeAdapter, ValidationError

from common.errors import WireError
from common.wire import Delta, Event, Failed, Finished, GenerationRequest, ModelCard, TokenLogprob

T = TypeVar("T")
NEWEST: Mapping[str, Any] = MappingProxyType({"is_flex": False, "keep_alive_s": None})  # fields with their defaults


def encode_request(request: GenerationRequest) -> bytes:
    """A worker of the version before refuses a field that it does not know: the newest are left out if they can be."""
    values = {field.name: getattr(request, field.name) for field in fields(request)}
    return orjson.dumps({name: value for name, value in values.items() if name not in NEWEST or value != NEWEST[name]})


def decode_request(raw: bytes | str) -> GenerationRequest:
    """Raises WireError if the bytes are not a request of this version."""
    return _decoded(GenerationRequest, raw, unknown="forbid")


def encode_card(card: ModelCard) -> bytes:
    return orjson.dumps(card)


def decode_card(raw: bytes | str) -> ModelCard:
    """Raises WireError if the bytes are not a model card."""
    return _decoded(ModelCard, raw, unknown="ignore")


def encode_event(event: Event) -> bytes:
    """One log entry. A delta's fields have one letter: i index, t token ids, x text, l logprobs, f finish_reason."""
    if isinstance(event, Delta):
        fields: dict[str, Any] = {"i": event.index, "t": event.token_ids, "x": event.text}
        if event.logprobs:
            fields["l"] = [(item.token_id, item.logprob, item.top) for item in event.logprobs]
        if event.finish_reason is not None:
            fields["f"] = event.finish_reason
        return orjson.dumps(fields)
    if isinstance(event, Finished):
        return orjson.dumps({"end": event})
    return orjson.dumps({"fail": event})


def decode_event(fields: dict[str, Any]) -> Event:
    """Raises WireError if the JSON object is not one of our events."""
    try:
        if "end" in fields:
            finished: Finished = _adapter(Finished).validate_python(fields["end"])
            return finished
        if "fail" in fields:
            failed: Failed = _adapter(Failed).validate_python(fields["fail"])
            return failed
        logprobs = tuple(
            TokenLogprob(token_id, logprob, tuple((int(t), float(p)) for t, p in top))
            for token_id, logprob, top in fields.get("l", ())
        )
        return Delta(fields["i"], tuple(fields["t"]), fields["x"], logprobs, fields.get("f"))
    except (KeyError, TypeError, ValueError) as error:
        raise WireError(f"not an event: {fields!r}") from error


def decode_failed(raw: bytes | str) -> Failed:
    """The reason of a cancelled job, as the scripts store it. Raises WireError."""
    return _decoded(Failed, raw, unknown="ignore")


def _decoded(kind: type[T], raw: bytes | str, unknown: Literal["forbid", "ignore"]) -> T:
    try:
        found: T = _adapter(cast(Any, kind)).validate_json(raw, strict=True, extra=unknown)
    except ValidationError as error:  # its text may hold parts of a prompt
        places = ", ".join(".".join(map(str, fault["loc"])) or "JSON" for fault in error.errors()[:3])
        raise WireError(f"not a {kind.__name__}: {places}") from None
    return found


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
