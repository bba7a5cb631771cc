"""Logs to feed formatters with: a text in deltas of a few characters."""

from collections.abc import Iterable
from typing import Any

from common.wire import Delta, Event, Finished


def spoken(text: str, *, index: int = 0, step: int = 3, finish_reason: Any = "stop", tokens: int = 1) -> list[Event]:
    """Deltas of `step` characters with `tokens` tokens each; the last one ends the choice."""
    parts = [text[at : at + step] for at in range(0, len(text), step)] or [""]
    deltas: list[Event] = [Delta(index, (65,) * tokens, part) for part in parts[:-1]]
    return [*deltas, Delta(index, (258,), parts[-1], finish_reason=finish_reason)]


def log(text: str, **options: Any) -> list[Event]:
    """The events of a whole job."""
    deltas = spoken(text, **options)
    return [*deltas, Finished(7, len(deltas), 4)]


def fed(formatter: Any, events: Iterable[Event]) -> list[dict[str, Any]]:
    """All chunks of a log."""
    chunks = list(formatter.opening())
    for event in events:
        chunks += formatter.feed(event)
    return chunks


def folded(completion: Any, events: Iterable[Event]) -> dict[str, Any]:
    for event in events:
        completion.feed(event)
    body: dict[str, Any] = completion.body()
    return body
