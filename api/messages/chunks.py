"""Events -> Anthropic's stream events and message. Pure, like api/chat/chunks.py: the same log, the same chunks.

message_start, ping, (content_block_start, content_block_delta*, content_block_stop)*, message_delta, message_stop
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from api.jobs.dialects import ANTHROPIC
from api.jobs.endpoint import Endpoint
from api.reading.choice import ChoiceParser, TokenDecoder
from api.reading.json_text import object_in
from api.reading.pieces import Content, Piece, Reasoning, ToolCallEnd, ToolCallStart
from api.request.response_meta import ParsedMeta
from common.wire import Delta, Event, Failed, Finished, Tier

SERVICE_TIERS: Mapping[Tier, str] = MappingProxyType(  # Anthropic's names
    {"default": "standard", "priority": "priority", "flex": "batch"}
)


@dataclass(frozen=True, slots=True)
class MessageMeta(ParsedMeta):
    num_prompt_tokens: int
    stop: list[str]
    tier: Tier = "default"

    def forms(self) -> list[dict[str, Any]]:
        """Without a `tier` that is the default: other versions do not know it."""
        [form] = super(MessageMeta, self).forms()
        return [form if self.tier != "default" else {name: form[name] for name in form if name != "tier"}]


@dataclass(slots=True)
class OutputBlock:
    """A content block whose text is still growing."""

    type: str  # text, thinking, tool_use
    id: str = ""
    name: str = ""
    text: str = ""
    is_whole: bool = True  # False for a call until its input is complete

    def shown(self) -> dict[str, Any]:
        if self.type == "tool_use":
            return {"type": "tool_use", "id": self.id, "name": self.name, "input": object_in(self.text) or {}}
        signature = {"signature": ""} if self.type == "thinking" else {}
        return {"type": self.type, self.type: self.text, **signature}

    def delta(self, text: str) -> dict[str, Any]:
        self.text += text
        if self.type == "tool_use":
            return {"type": "input_json_delta", "partial_json": text}
        return {"type": f"{self.type}_delta", self.type: text}


class MessageChunks:
    """Turns a job's events into stream events, and folds them into a message. Feed every event once, in log order."""

    def __init__(self, meta: MessageMeta, decoder: TokenDecoder) -> None:
        self.meta = meta
        self.decoder = decoder
        self.failed: Failed | None = None
        self._parser = ChoiceParser(meta.reading, meta.id, 0)
        self._blocks: list[OutputBlock] = []
        self._is_open = False
        self._token_ids: list[int] = []
        self._text: list[str] = []
        self._usage: dict[str, Any] = {"input_tokens": meta.num_prompt_tokens, "output_tokens": 0}

    def opening(self) -> list[dict[str, Any]]:
        return [{"type": "message_start", "message": self.body()}, {"type": "ping"}]

    def feed(self, event: Event) -> list[dict[str, Any]]:
        """The stream events of one event; none for a Failed, which the stream reports in a frame of its own."""
        if isinstance(event, Failed):
            self.failed = event
            return []
        if isinstance(event, Delta):
            self._token_ids += event.token_ids
            self._text.append(event.text)
            return [new for piece in self._parser.read(event) for new in self._piece(piece)]
        self._usage = usage_of(event, self._parser.num_reasoning_tokens)
        events = [] if self._blocks else self._begin("text")
        end = {"stop_reason": self.stop_reason, "stop_sequence": self.stop_sequence}
        events += [*self._close(), {"type": "message_delta", "delta": end, "usage": self._usage}]
        return [*events, {"type": "message_stop"}]

    def body(self) -> dict[str, Any]:
        """Anthropic's message object so far."""
        return {
            "id": self.meta.id,
            "type": "message",
            "role": "assistant",
            "model": self.meta.model,
            "content": self._content(),
            "stop_reason": self.stop_reason,
            "stop_sequence": self.stop_sequence,
            "usage": self._usage | {"service_tier": SERVICE_TIERS[self.meta.tier]},
        }

    def _content(self) -> list[dict[str, Any]]:
        """The blocks so far, without an incomplete call: its input could be taken for a valid one."""
        whole = [block for block in self._blocks if block.is_whole]
        return [block.shown() for block in whole or ([OutputBlock("text")] if self._blocks else [])]

    @property
    def stop_reason(self) -> str | None:
        reason = self._parser.finish_reason
        if reason == "tool_calls" and not any(block.type == "tool_use" and block.is_whole for block in self._blocks):
            return "end_turn"  # the arguments cannot be read
        if reason == "stop" and self.stop_sequence is not None:
            return "stop_sequence"
        return {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}.get(reason or "")

    @property
    def stop_sequence(self) -> str | None:
        """The stop string that ended the text: the one that follows the visible text."""
        is_end = not self._token_ids or self.meta.reading.ends_with(self._token_ids)
        if self._parser.finish_reason != "stop" or is_end or not self.meta.stop:
            return None
        written = self.decoder.decode(self._token_ids)
        at = len("".join(self._text))
        found = [stop for stop in self.meta.stop if written.startswith(stop, at)]
        found += [stop for stop in self.meta.stop if stop in written]
        return found[0] if found else None

    def _piece(self, piece: Piece) -> list[dict[str, Any]]:
        if isinstance(piece, ToolCallStart):
            return self._begin("tool_use", id=piece.id.replace("call_", "toolu_"), name=piece.name, is_whole=False)
        if isinstance(piece, ToolCallEnd):
            self._blocks[-1].is_whole = object_in(self._blocks[-1].text or "{}") is not None
            return []
        if isinstance(piece, Content):
            events = self._begin("text")
        else:
            events = self._begin("thinking") if isinstance(piece, Reasoning) else []
        return [*events, self._about("content_block_delta", delta=self._blocks[-1].delta(piece.text))]

    def _begin(self, type: str, **fields: Any) -> list[dict[str, Any]]:
        """Open a block of this type unless one is open; every call has a block of its own."""
        if self._is_open and self._blocks[-1].type == type and type != "tool_use":
            return []
        events = self._close()
        self._blocks.append(OutputBlock(type, **fields))
        self._is_open = True
        return [*events, self._about("content_block_start", content_block=self._blocks[-1].shown())]

    def _close(self) -> list[dict[str, Any]]:
        if not self._is_open:
            return []
        self._is_open = False
        return [self._about("content_block_stop")]

    def _about(self, type: str, **fields: Any) -> dict[str, Any]:
        return {"type": type, "index": len(self._blocks) - 1, **fields}


def usage_of(event: Finished, num_reasoning_tokens: int) -> dict[str, Any]:
    """Anthropic counts cached tokens separately."""
    return {
        "input_tokens": event.prompt_tokens - event.cached_tokens,
        "cache_read_input_tokens": event.cached_tokens,
        "cache_creation_input_tokens": 0,
        "output_tokens": event.completion_tokens,
        "output_tokens_details": {"thinking_tokens": num_reasoning_tokens},
    }


MESSAGE = Endpoint(
    kind="message",
    name="a message",
    meta=MessageMeta,
    chunks=MessageChunks,
    completion=MessageChunks,
    dialect=ANTHROPIC,
)
