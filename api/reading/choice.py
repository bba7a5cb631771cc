"""How a choice's text is to be read, and one choice being read: deltas in, pieces out. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from api.reading.answer import AnswerParser
from api.reading.pieces import Piece, Reasoning, merged
from common.grammar.answer import Thinking
from common.grammar.tools import ToolCallFormat
from common.wire import Delta, Finished, TokenLogprob


class Vocabulary(Protocol):
    """What a formatter asks of the tokenizer."""

    def token_bytes(self, token_id: int) -> tuple[str, list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """Stored with the job, so that any process reads its answer alike."""

    tool_format: ToolCallFormat | None = None  # None: no tools were offered, and markup of calls is text
    is_thinking_opened: bool = False  # the prompt ended inside a <think> block
    shows_reasoning: bool = True
    ends: tuple[int, ...] = ()  # tokens that end an answer and are not part of it
    must_call: bool = False  # the answer is nothing but calls, by its grammar

    def ends_with(self, token_ids: Sequence[int]) -> bool:
        """Whether the model ended the answer itself: no stop string, limit or grammar did."""
        return bool(token_ids) and token_ids[-1] in self.ends


def reading_of(fields: Mapping[str, Any]) -> Reading:
    return Reading(**{**fields, "ends": tuple(fields["ends"])})


class ChoiceReader:
    """Reads one choice from its first delta to its last."""

    def __init__(self, reading: Reading, job_id: str, index: int) -> None:
        self._reading = reading
        # A model may think although its template says nothing of it.
        thinking: Thinking = "opened" if reading.is_thinking_opened else "optional"
        self._parser = AnswerParser(thinking, reading.tool_format, f"{job_id}/{index}", must_call=reading.must_call)
        self.num_reasoning_tokens = 0
        self.finish_reason: str | None = None  # OpenAI's word for it

    def read(self, delta: Delta) -> list[Piece]:
        was_thinking = self._parser.is_thinking
        pieces = self._parser.feed(delta.text)
        if was_thinking or self._parser.is_thinking or any(isinstance(piece, Reasoning) for piece in pieces):
            self.num_reasoning_tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            is_cut = delta.finish_reason == "length" or not self._reading.ends_with(delta.token_ids)
            pieces = merged([*pieces, *self._parser.finish(is_cut=is_cut)])
            has_called = delta.finish_reason == "stop" and self._parser.has_called
            self.finish_reason = "tool_calls" if has_called else delta.finish_reason
        if not self._reading.shows_reasoning:
            pieces = [piece for piece in pieces if not isinstance(piece, Reasoning)]
        return pieces

    def logprobs(self, delta: Delta) -> list[TokenLogprob]:
        """Those of the answer's own tokens."""
        return [item for item in delta.logprobs if item.token_id not in self._reading.ends]


def usage_of(event: Finished, num_reasoning_tokens: int) -> dict[str, Any]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": event.prompt_tokens,
        "completion_tokens": event.completion_tokens,
        "total_tokens": event.prompt_tokens + event.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": event.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": num_reasoning_tokens},
    }


def logprob_entries(tokens: Sequence[TokenLogprob], vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """OpenAI's list of tokens with their alternatives."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        text, raw = vocabulary.token_bytes(token_id)
        return {"token": text, "logprob": logprob, "bytes": raw}

    return [
        entry(item.token_id, item.logprob) | {"top_logprobs": [entry(*other) for other in item.top]} for item in tokens
    ]
