"""Events -> chat.completion and chat.completion.chunk. Pure: the same log gives the same chunks, byte for byte.

This makes a stream resumable: chunks are numbered in log order, and any process can replay them from the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from api.chat.old_calls import old_delta, old_message, old_reason
from api.jobs.endpoint import AnswerProgress, Endpoint, Unfinished, unfinished_completion
from api.process.offload import offload
from api.reading.choice import ChoiceParser, TokenDecoder, logprob_entries, usage_of
from api.reading.pieces import Content, Piece, Reasoning, ToolCallArguments, ToolCallEnd, ToolCallStart, merged
from api.request.response_meta import ParsedMeta
from common.wire import Delta, Event, Failed, Finished, Tier, TokenLogprob

OPTIONAL = ("has_old_calls", "service_tier", "messages", "metadata", "echo")


@dataclass(frozen=True, slots=True)
class ChatMeta(ParsedMeta):
    n: int = 1
    include_usage: bool = False
    logprobs: bool = False
    has_old_calls: bool = False
    service_tier: Tier | None = None  # None: not shown
    # Of a request with `store: true`; otherwise None.
    messages: list[dict[str, Any]] | None = None
    metadata: dict[str, str] | None = None
    echo: dict[str, Any] | None = None  # the request's fields that a stored completion repeats

    def forms(self) -> list[dict[str, Any]]:
        """Without fields that other versions do not know, where they have no effect."""
        [form] = super(ChatMeta, self).forms()
        return [{name: value for name, value in form.items() if value not in (None, False) or name not in OPTIONAL}]

    def head(self, object_name: str) -> dict[str, Any]:
        head = {"id": self.id, "object": object_name, "created": self.created, "model": self.model}
        return head | ({"service_tier": self.service_tier} if self.service_tier else {})

    @property
    def is_stored(self) -> bool:
        return self.messages is not None

    def reason(self, parser: ChoiceParser) -> str | None:
        return old_reason(parser.finish_reason) if self.has_old_calls else parser.finish_reason


def choice_logprobs(tokens: Sequence[TokenLogprob], decoder: TokenDecoder) -> dict[str, Any]:
    return {"content": logprob_entries(tokens, decoder), "refusal": None}


def parsers_of(meta: ChatMeta) -> list[ChoiceParser]:
    return [ChoiceParser(meta.reading, meta.id, index) for index in range(meta.n)]


class ChatChunks:
    """Turns a job's events into chunks. Feed every event once, in log order."""

    def __init__(self, meta: ChatMeta, decoder: TokenDecoder) -> None:
        self.meta = meta
        self.decoder = decoder
        self._parsers = parsers_of(meta)
        self._seen: set[int] = set()

    def opening(self) -> list[dict[str, Any]]:
        return []

    def feed(self, event: Event) -> list[dict[str, Any]]:
        """The chunks of one event; none for a Failed, which the stream reports in a frame of its own."""
        if isinstance(event, Delta):
            return self._delta(event)
        if isinstance(event, Finished) and self.meta.include_usage:
            num_reasoning = sum(parser.num_reasoning_tokens for parser in self._parsers)
            return [self._chunk([]) | {"usage": usage_of(event, num_reasoning)}]
        return []

    def _delta(self, event: Delta) -> list[dict[str, Any]]:
        parser = self._parsers[event.index]
        deltas = [delta_of(piece) for piece in parser.read(event) if not isinstance(piece, ToolCallEnd)]
        tokens = parser.logprobs(event)
        if tokens and not deltas:
            deltas = [{"content": ""}]
        is_called = bool(deltas) and "tool_calls" in deltas[0]
        if self.meta.has_old_calls:
            deltas = [old_delta(delta) for delta in deltas]
        chunks = [self._choice(event.index, delta) for delta in deltas]
        if tokens:
            chunks[0]["choices"][0]["logprobs"] = choice_logprobs(tokens, self.decoder)
        if event.index not in self._seen and (chunks or parser.finish_reason is not None):
            self._seen.add(event.index)
            content = None if is_called else ""
            chunks.insert(0, self._choice(event.index, {"role": "assistant", "content": content}))
        if parser.finish_reason is not None:
            chunks.append(self._choice(event.index, {}, finish_reason=self.meta.reason(parser)))
        return chunks

    def _choice(self, index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return self._chunk([{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}])

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk: dict[str, Any] = self.meta.head("chat.completion.chunk") | {"choices": choices}
        if self.meta.include_usage:
            chunk["usage"] = None
        return chunk


def delta_of(piece: Content | Reasoning | ToolCallStart | ToolCallArguments) -> dict[str, Any]:
    """The `delta` of a piece. Reasoning has both field names that clients know."""
    if isinstance(piece, Content):
        return {"content": piece.text}
    if isinstance(piece, Reasoning):
        return {"reasoning_content": piece.text, "reasoning": piece.text}
    if isinstance(piece, ToolCallStart):
        return {"tool_calls": [{"index": piece.index, **begun_call(piece)}]}
    more = {"custom": {"input": piece.text}} if piece.is_custom else {"function": {"arguments": piece.text}}
    return {"tool_calls": [{"index": piece.index, **more}]}


def begun_call(piece: ToolCallStart) -> dict[str, Any]:
    """OpenAI's call of a function or a custom tool, of which only the name is known."""
    if piece.is_custom:
        return {"id": piece.id, "type": "custom", "custom": {"name": piece.name, "input": ""}}
    return {"id": piece.id, "type": "function", "function": {"name": piece.name, "arguments": ""}}


@dataclass(slots=True)
class _Choice:
    parser: ChoiceParser
    pieces: list[Piece] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)


class ChatCompletion:
    """Folds a job's events into one chat.completion."""

    def __init__(self, meta: ChatMeta, decoder: TokenDecoder) -> None:
        self.meta = meta
        self.decoder = decoder
        self.failed: Failed | None = None
        self._choices = [_Choice(parser) for parser in parsers_of(meta)]
        self._usage: dict[str, Any] | None = None

    def feed(self, event: Event) -> None:
        if isinstance(event, Delta):
            choice = self._choices[event.index]
            choice.pieces += choice.parser.read(event)
            choice.logprobs += choice.parser.logprobs(event)
        elif isinstance(event, Finished):
            self._usage = usage_of(event, sum(choice.parser.num_reasoning_tokens for choice in self._choices))
        else:
            self.failed = event

    def body(self) -> dict[str, Any]:
        choices = [self._choice(index, choice) for index, choice in enumerate(self._choices)]
        return self.meta.head("chat.completion") | {"choices": choices, "usage": self._usage}

    def _choice(self, index: int, choice: _Choice) -> dict[str, Any]:
        message = message_of(choice.pieces)
        return {
            "index": index,
            "message": old_message(message) if self.meta.has_old_calls else message,
            "logprobs": offload(choice_logprobs, choice.logprobs, self.decoder) if self.meta.logprobs else None,
            "finish_reason": self.meta.reason(choice.parser),
        }


def message_of(pieces: Sequence[Piece]) -> dict[str, Any]:
    """The assistant's message; its content is null if it consists of tool calls only."""
    content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
    reasoning = "".join(piece.text for piece in pieces if isinstance(piece, Reasoning))
    calls = tool_calls_of(pieces)
    message: dict[str, Any] = {"role": "assistant", "content": content or (None if calls else ""), "refusal": None}
    if reasoning:
        message |= {"reasoning_content": reasoning, "reasoning": reasoning}
    if calls:
        message["tool_calls"] = calls
    return message


def tool_calls_of(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    """OpenAI's `tool_calls`: the complete ones."""
    calls: list[dict[str, Any]] = []
    begun: dict[int, dict[str, Any]] = {}
    for piece in merged(pieces):
        if isinstance(piece, ToolCallStart):
            begun[piece.index] = begun_call(piece)
        elif isinstance(piece, ToolCallArguments):
            kind, text = ("custom", "input") if piece.is_custom else ("function", "arguments")
            begun[piece.index][kind][text] += piece.text
        elif isinstance(piece, ToolCallEnd):
            calls.append(begun[piece.index])
    return calls


def unfinished_chat(meta: ChatMeta, progress: AnswerProgress) -> Unfinished:
    return unfinished_completion(meta, progress, "chat.completion")


CHAT = Endpoint(
    kind="chat",
    name="a chat completion",
    meta=ChatMeta,
    chunks=ChatChunks,
    completion=ChatCompletion,
    unfinished=unfinished_chat,
    is_archived=True,
)
