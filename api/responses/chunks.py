"""Events -> the stream events and the object of /v1/responses. Pure, like api/chat/chunks.py.

created, queued?, in_progress, (item added, (part added, deltas, done)?, item done)*, completed | incomplete | failed
"""

from dataclasses import dataclass, field
from typing import Any

from api.jobs.dialects import RESPONSES
from api.jobs.endpoint import CANCELLED, AnswerProgress, Endpoint, Unfinished
from api.reading.choice import ChoiceParser, TokenDecoder, logprob_entries
from api.reading.pieces import Content, Piece, Reasoning, ToolCallEnd, ToolCallStart
from api.request.response_meta import ParsedMeta
from api.responses.output import (
    CUSTOM_CALL,
    FUNCTION_CALL,
    MESSAGE,
    REASONING,
    SEARCH_CALL,
    SUMMARY,
    ItemKind,
    OutputItem,
)
from api.responses.tools import as_sent
from common.wire import Delta, Event, Failed, Finished, TokenLogprob

OPTIONAL = ("calls", "num_dropped", "conversation")  # fields that versions before did not know


@dataclass(frozen=True, slots=True)
class ResponsesMeta(ParsedMeta):
    """Includes the conversation, so that a later request can continue it."""

    store: bool
    background: bool
    echo: dict[str, Any]  # fields of the request that every response object repeats
    input: list[dict[str, Any]]  # this request's items
    context: list[dict[str, Any]]  # the items of the responses before it
    # Functions that the caller knows by another name or type: what their call items have.
    calls: dict[str, dict[str, str]] = field(default_factory=dict)
    num_dropped: int = 0  # items that `truncation: "auto"` left out of the prompt
    conversation: str = ""  # id

    def forms(self) -> list[dict[str, Any]]:
        """Without the fields that other versions do not know, where they say nothing."""
        [form] = super(ResponsesMeta, self).forms()
        return [{k: v for k, v in form.items() if v or k not in OPTIONAL}]


class ResponseChunks:
    """Turns a job's events into numbered stream events, and folds them. Feed every event once, in log order."""

    def __init__(self, meta: ResponsesMeta, decoder: TokenDecoder) -> None:
        self.meta = meta
        self.decoder = decoder
        self.failed: Failed | None = None
        self._parser = ChoiceParser(meta.reading, meta.id, 0)
        # The reasoning itself is the summary, if one is wanted: many clients show that alone.
        self._reasoning = SUMMARY if (meta.echo.get("reasoning") or {}).get("summary") else REASONING
        self._items: list[OutputItem] = []
        self._open: OutputItem | None = None
        self._logprobs: list[TokenLogprob] = []  # of text that the parser still holds back
        self._num_events = 0
        self._has_begun = False
        self._usage: dict[str, Any] | None = None
        self._completed_at: int | None = None

    def opening(self) -> list[dict[str, Any]]:
        status = "queued" if self.meta.background else "in_progress"
        created = self._lifecycle("created", status)
        return [created, self._lifecycle("queued", status)] if self.meta.background else [created]

    def feed(self, event: Event) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        if not self._has_begun and not isinstance(event, Failed):
            self._has_begun = True
            events.append(self._lifecycle("in_progress", "in_progress"))
        if isinstance(event, Delta):
            self._logprobs += self._parser.logprobs(event)
            for piece in self._parser.read(event):
                events += self._piece(piece)
            return events
        if isinstance(event, Failed):
            self.failed = event
            return [*events, *self._close("incomplete"), self._lifecycle("failed", self.status)]
        is_cut = self._parser.finish_reason == "length"
        self._usage = usage_of(event, self._parser.num_reasoning_tokens)
        self._completed_at = None if is_cut else event.ended or None
        events += [] if self._items else self._begin(MESSAGE)
        events += self._close("incomplete" if is_cut else "completed")
        return [*events, self._lifecycle("incomplete" if is_cut else "completed", self.status)]

    @property
    def status(self) -> str:
        if self.failed is not None:
            return "cancelled" if self.failed.code in CANCELLED else "failed"
        if self._usage is None:
            return "in_progress"
        return "incomplete" if self._parser.finish_reason == "length" else "completed"

    def body(self) -> dict[str, Any]:
        return self.response(self.status)

    def response(self, status: str) -> dict[str, Any]:
        """The response object so far."""
        fields: dict[str, Any] = {
            "output": [item.shown() for item in self._items if item.is_whole or item is self._open],
            "usage": self._usage,
            "completed_at": self._completed_at,
        }
        if self.failed is not None and status == "failed":
            # OpenAI publishes no other code that fits.
            fields["error"] = {"code": "server_error", "message": self.failed.message}
        return response_object(self.meta, status, **fields)

    def _piece(self, piece: Piece) -> list[dict[str, Any]]:
        if isinstance(piece, Content):
            events = self._begin(MESSAGE)
            return events + self._text(piece.text, logprobs=logprob_entries(self._take_logprobs(), self.decoder))
        self._take_logprobs()
        if isinstance(piece, Reasoning):
            return self._begin(self._reasoning) + self._text(piece.text)
        if isinstance(piece, ToolCallStart):
            call = as_sent(self.meta.calls, piece.name)
            kind = SEARCH_CALL if call.pop("type", "") == SEARCH_CALL.type else FUNCTION_CALL
            return self._begin(CUSTOM_CALL if piece.is_custom else kind, {"call_id": piece.id} | call)
        if isinstance(piece, ToolCallEnd):
            self._items[-1].is_whole = True
            return []
        return self._text(piece.text)

    def _take_logprobs(self) -> list[TokenLogprob]:
        taken, self._logprobs = self._logprobs, []
        return taken

    def _begin(self, kind: ItemKind, call: dict[str, str] | None = None) -> list[dict[str, Any]]:
        """Open an item of this kind unless one is open; every call is an item of its own."""
        if self._open is not None and self._open.kind is kind and call is None:
            return []
        events = self._close("completed")
        item_id = f"{kind.prefix}_{self.meta.id.removeprefix('resp_')}{len(self._items):02d}"
        self._open = OutputItem(item_id, kind, call or {}, is_whole=call is None)
        self._items.append(self._open)
        events.append(self._about("output_item.added", item=self._open.shown(with_parts=False)))
        if kind.part_event:
            events.append(self._in(self._open, f"{kind.part_event}.added", part=self._open.part()))
        return events

    def _text(self, text: str, **fields: Any) -> list[dict[str, Any]]:
        assert self._open is not None
        self._open.text += text
        self._open.logprobs += fields.get("logprobs", ())
        name = self._open.kind.text_event
        return [self._in(self._open, f"{name}.delta", delta=text, **fields)] if name else []

    def _close(self, status: str) -> list[dict[str, Any]]:
        """A call that was cut off gets no `done` events: clients run a call whose item is done, whatever its status."""
        item, self._open = self._open, None
        if item is None or not item.is_whole:
            return []
        item.status = "completed" if item.call else status  # a call that is whole can be run
        events = []
        if item.kind.text_event:
            events.append(self._in(item, f"{item.kind.text_event}.done", **item.whole_text()))
        if item.kind.part_event:
            events.append(self._in(item, f"{item.kind.part_event}.done", part=item.part()))
        return [*events, self._about("output_item.done", item=item.shown())]

    def _lifecycle(self, name: str, status: str) -> dict[str, Any]:
        return self._event(name, response=self.response(status))

    def _in(self, item: OutputItem, event: str, **fields: Any) -> dict[str, Any]:
        """An event of an item's text, or of the part that holds it."""
        place = {item.kind.part_number: 0} if item.kind.part_number else {}
        return self._about(event, item_id=item.id, **place, **fields)

    def _about(self, event: str, **fields: Any) -> dict[str, Any]:
        return self._event(event, output_index=len(self._items) - 1, **fields)

    def _event(self, event: str, **fields: Any) -> dict[str, Any]:
        self._num_events += 1
        return {"type": f"response.{event}", "sequence_number": self._num_events - 1, **fields}


def usage_of(event: Finished, num_reasoning_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": event.prompt_tokens,
        "input_tokens_details": {"cached_tokens": event.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": event.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": num_reasoning_tokens},
        "total_tokens": event.prompt_tokens + event.completion_tokens,
    }


def response_object(meta: ResponsesMeta, status: str, **fields: Any) -> dict[str, Any]:
    """OpenAI's response; `fields` are those that depend on the events: output, usage, error, completed_at."""
    dropped = {"dropped_items": meta.num_dropped} if meta.num_dropped else {}
    conversation = {"conversation": {"id": meta.conversation}} if meta.conversation else {}
    return {
        "id": meta.id,
        "object": "response",
        "created_at": meta.created,
        "completed_at": fields.get("completed_at"),
        "status": status,
        "background": meta.background,
        "error": fields.get("error"),
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": meta.model,
        "output": fields.get("output", []),
        **meta.echo,
        "store": meta.store,
        "usage": fields.get("usage"),
        **conversation,
        **dropped,
    }


def unfinished_response(meta: ResponsesMeta, progress: AnswerProgress) -> Unfinished:
    return {**response_object(meta, progress.status), **progress.wait}, 200


RESPONSE = Endpoint(
    kind="response",
    name="a response",
    meta=ResponsesMeta,
    chunks=ResponseChunks,
    completion=ResponseChunks,
    dialect=RESPONSES,
    unfinished=unfinished_response,
    is_archived=True,
)
