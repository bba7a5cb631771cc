"""Events -> the objects of /api/chat and /api/generate. Pure, except for the durations in the last object."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from types import MappingProxyType
from typing import Any

from api.jobs.dialects import OLLAMA
from api.jobs.endpoint import Endpoint
from api.process.offload import offload
from api.reading.choice import ChoiceParser, TokenDecoder, logprob_entries
from api.reading.json_text import object_in
from api.reading.pieces import Content, Piece, Reasoning, ToolCallArguments, ToolCallEnd, ToolCallStart
from api.request.response_meta import ParsedMeta
from common.wire import Delta, Event, Failed, Finished, TokenLogprob

SECOND_NS = 10**9
DONE_REASONS: Mapping[str | None, str] = MappingProxyType({"length": "length"})  # else stop, also after calls


@dataclass(frozen=True, slots=True)
class OllamaMeta(ParsedMeta):
    created_ns: int  # when the request came, in nanoseconds since 1970
    logprobs: bool = False
    is_raw: bool = False  # the answer is plain text


@dataclass(slots=True)
class Clock:
    """Durations as Ollama reports them. Waiting in the queue counts as part of the prompt's."""

    began_ns: int
    first_ns: int = 0  # when the first tokens came

    def note(self) -> None:
        self.first_ns = self.first_ns or time.time_ns()

    def durations(self, end: Finished) -> dict[str, int]:
        """Of an answer that is read after its end, only the time in all is known: to the second."""
        now = time.time_ns()
        first = self.first_ns or now
        ended = (end.ended + 1) * SECOND_NS if end.ended else now
        counts = {"prompt_eval_count": end.prompt_tokens, "eval_count": end.completion_tokens}
        if first > ended:
            return {"total_duration": max(ended - self.began_ns, 1), "load_duration": 0, **counts}
        return {
            "total_duration": now - self.began_ns,
            "load_duration": 0,
            "prompt_eval_duration": first - self.began_ns,
            "eval_duration": max(now - first, 1),
            **counts,
        }


class ToolCalls:
    """Puts calls together: Ollama sends each in one piece, with its arguments as an object."""

    def __init__(self) -> None:
        self._begun: dict[int, ToolCallStart] = {}
        self._arguments: dict[int, str] = {}

    def add(self, piece: ToolCallStart | ToolCallArguments | ToolCallEnd) -> dict[str, Any] | None:
        """The call that the piece completes; none if its arguments cannot be read."""
        if isinstance(piece, ToolCallStart):
            self._begun[piece.index], self._arguments[piece.index] = piece, ""
        elif isinstance(piece, ToolCallArguments):
            self._arguments[piece.index] += piece.text
        else:
            begun = self._begun[piece.index]
            arguments = object_in(self._arguments[piece.index] or "{}")
            if arguments is None:
                return None
            return {"id": begun.id, "function": {"index": begun.index, "name": begun.name, "arguments": arguments}}
        return None


@dataclass(slots=True)
class ShownPart:
    """What one object adds to the answer, or all of it."""

    text: str = ""
    thinking: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)

    def shown(self, *, is_chat: bool) -> dict[str, Any]:
        thinking = {"thinking": self.thinking} if self.thinking else {}
        calls = {"tool_calls": self.calls} if self.calls else {}
        if is_chat:
            return {"message": {"role": "assistant", "content": self.text, **thinking, **calls}}
        return {"response": self.text, **thinking, **calls}


class OllamaChunks:
    """Turns a job's events into objects, and folds them into one. Feed every event once, in log order."""

    def __init__(self, meta: OllamaMeta, decoder: TokenDecoder, *, is_chat: bool) -> None:
        self.meta = meta
        self.decoder = decoder
        self.failed: Failed | None = None
        self._is_chat = is_chat
        self._parser = ChoiceParser(meta.reading, meta.id, 0)
        self._calls = ToolCalls()
        self._clock = Clock(meta.created_ns)
        self._whole = ShownPart()
        self._finish_reason: str | None = None
        self._logprobs: list[TokenLogprob] = []
        self._end: dict[str, Any] = {}

    def opening(self) -> list[dict[str, Any]]:
        return []

    def feed(self, event: Event) -> list[dict[str, Any]]:
        """The objects of one event; none for a Failed, which the stream reports in a line of its own."""
        if isinstance(event, Failed):
            self.failed = event
            return []
        if isinstance(event, Finished):
            reason = DONE_REASONS.get(self._finish_reason, "stop")
            self._end = {"done": True, "done_reason": reason}
            self._end |= self._clock.durations(event)
            return [self._object(ShownPart()) | self._end]
        self._clock.note()
        self._finish_reason = event.finish_reason
        tokens = self._parser.logprobs(event) if self.meta.logprobs else []
        self._logprobs += tokens
        parts = [part for piece in self._pieces(event) if (part := self._part(piece)) is not None]
        objects = [self._object(part) | {"done": False} for part in parts or ([ShownPart()] if tokens else [])]
        if tokens:
            objects[0]["logprobs"] = logprob_entries(tokens, self.decoder)
        return objects

    def body(self) -> dict[str, Any]:
        whole = self._object(self._whole) | self._end
        if self.meta.logprobs:
            whole["logprobs"] = offload(logprob_entries, self._logprobs, self.decoder)
        return whole

    def _pieces(self, event: Delta) -> Iterable[Piece]:
        if self.meta.is_raw:
            return [Content(event.text)] if event.text else []
        return self._parser.read(event)

    def _part(self, piece: Piece) -> ShownPart | None:
        """What a piece shows; None for one of a call that is not complete."""
        if isinstance(piece, Content):
            self._whole.text += piece.text
            return ShownPart(text=piece.text)
        if isinstance(piece, Reasoning):
            self._whole.thinking += piece.text
            return ShownPart(thinking=piece.text)
        call = self._calls.add(piece)
        if call is None:
            return None
        self._whole.calls.append(call)
        return ShownPart(calls=[call])

    def _object(self, part: ShownPart) -> dict[str, Any]:
        head = {"model": self.meta.model, "created_at": written_time(self.meta.created_ns)}
        return head | part.shown(is_chat=self._is_chat)


def written_time(nanoseconds: int) -> str:
    """RFC 3339, as Go writes and JavaScript reads it."""
    return datetime.fromtimestamp(nanoseconds // 1000 / 1e6, UTC).isoformat().replace("+00:00", "Z")


def loaded(model: str, *, is_chat: bool, is_unloaded: bool) -> dict[str, Any]:
    """The answer to a request that only asks for its model to be loaded, or unloaded."""
    head = {"model": model, "created_at": written_time(time.time_ns())}
    return (
        head | ShownPart().shown(is_chat=is_chat) | {"done": True, "done_reason": "unload" if is_unloaded else "load"}
    )


CHAT_LINES = Endpoint(
    kind="ollama_chat",
    name="an answer of /api/chat",
    meta=OllamaMeta,
    chunks=partial(OllamaChunks, is_chat=True),
    completion=partial(OllamaChunks, is_chat=True),
    dialect=OLLAMA,
)
GENERATE_LINES = Endpoint(
    kind="ollama_generate",
    name="an answer of /api/generate",
    meta=OllamaMeta,
    chunks=partial(OllamaChunks, is_chat=False),
    completion=partial(OllamaChunks, is_chat=False),
    dialect=OLLAMA,
)
