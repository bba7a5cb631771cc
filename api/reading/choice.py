"""One choice of an answer: deltas in, pieces out, with the options that say how its text is parsed. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from api.reading.answer import AnswerParser
from api.reading.custom_input import CustomInputs
from api.reading.dialects.known import dialect_named
from api.reading.parameters import Kinds
from api.reading.pieces import Piece, Reasoning, merged
from api.reading.thinking.known import THINK, form_named
from common.wire import Delta, Finished, TokenLogprob


class TokenDecoder(Protocol):
    """Token ids to text, as logprobs show them."""

    def token_bytes(self, token_id: int) -> tuple[str, list[int]]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class ParseOptions:
    """Options of an answer's parser. Stored with the job, so that every process parses the same way."""

    tool_dialect: str | None = None  # a ToolDialect's name. None: no tools were offered, so calls are plain text
    is_thinking_opened: bool = False  # the prompt ended inside the reasoning
    shows_reasoning: bool = True
    stop_token_ids: tuple[int, ...] = ()  # they end an answer and are not part of it
    must_call: bool = False  # the grammar allows tool calls only
    parameter_kinds: Kinds = field(default_factory=dict)  # for dialects that write strings without quotes
    reasoning_form: str = THINK.name  # a ReasoningForm's name
    custom_tools: tuple[str, ...] = ()  # functions that stand for custom tools: their input is shown, not arguments

    def ends_with(self, token_ids: Sequence[int]) -> bool:
        """True if the model ended the answer itself, and not a stop string, a limit or the grammar."""
        return bool(token_ids) and token_ids[-1] in self.stop_token_ids


def stored_options(options: ParseOptions) -> dict[str, Any]:
    """The JSON object that is stored with the job. Its names are fixed: other versions read it too."""
    kinds = {"parameter_kinds": options.parameter_kinds} if options.parameter_kinds else {}
    form = {"reasoning_form": options.reasoning_form} if options.reasoning_form != THINK.name else {}
    custom = {"custom_tools": options.custom_tools} if options.custom_tools else {}
    return (
        kinds
        | form
        | custom
        | {
            "tool_format": options.tool_dialect,
            "is_thinking_opened": options.is_thinking_opened,
            "shows_reasoning": options.shows_reasoning,
            "ends": options.stop_token_ids,
            "must_call": options.must_call,
        }
    )


def parse_options(fields: Mapping[str, Any]) -> ParseOptions:
    """The reverse of stored_options()."""
    return ParseOptions(
        tool_dialect=fields["tool_format"],
        reasoning_form=fields.get("reasoning_form", THINK.name),
        is_thinking_opened=fields["is_thinking_opened"],
        shows_reasoning=fields["shows_reasoning"],
        stop_token_ids=tuple(fields["ends"]),
        must_call=fields["must_call"],
        parameter_kinds=fields.get("parameter_kinds", {}),
        custom_tools=tuple(fields.get("custom_tools", ())),
    )


class ChoiceParser:
    """Parses one choice from its first delta to its last."""

    def __init__(self, options: ParseOptions, job_id: str, index: int) -> None:
        self._options = options
        self._parser = AnswerParser(
            dialect_named(options.tool_dialect) if options.tool_dialect else None,
            f"{job_id}/{index}",
            options.parameter_kinds,
            form=form_named(options.reasoning_form),
            is_opened=options.is_thinking_opened,
            must_call=options.must_call,
        )
        self._custom_inputs = CustomInputs(options.custom_tools)
        self.num_reasoning_tokens = 0
        self.finish_reason: str | None = None  # as OpenAI spells it

    def read(self, delta: Delta) -> list[Piece]:
        was_thinking = self._parser.is_thinking
        pieces = self._parser.feed(delta.text)
        if was_thinking or self._parser.is_thinking or any(isinstance(piece, Reasoning) for piece in pieces):
            self.num_reasoning_tokens += len(delta.token_ids)
        if delta.finish_reason is not None:
            is_cut = delta.finish_reason == "length" or not self._options.ends_with(delta.token_ids)
            pieces = merged([*pieces, *self._parser.finish(is_cut=is_cut)])
            has_called = delta.finish_reason == "stop" and self._parser.has_called
            self.finish_reason = "tool_calls" if has_called else delta.finish_reason
        if not self._options.shows_reasoning:
            pieces = [piece for piece in pieces if not isinstance(piece, Reasoning)]
        return self._custom_inputs.read(pieces) if self._options.custom_tools else pieces

    def logprobs(self, delta: Delta) -> list[TokenLogprob]:
        """The delta's logprobs without those of stop tokens."""
        return [item for item in delta.logprobs if item.token_id not in self._options.stop_token_ids]


def usage_of(event: Finished, num_reasoning_tokens: int) -> dict[str, Any]:
    """OpenAI's usage object."""
    return {
        "prompt_tokens": event.prompt_tokens,
        "completion_tokens": event.completion_tokens,
        "total_tokens": event.prompt_tokens + event.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": event.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": num_reasoning_tokens},
    }


def logprob_entries(tokens: Sequence[TokenLogprob], vocabulary: TokenDecoder) -> list[dict[str, Any]]:
    """OpenAI's logprobs list: each token with its alternatives."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        text, raw = vocabulary.token_bytes(token_id)
        return {"token": text, "logprob": logprob, "bytes": raw}

    return [
        entry(item.token_id, item.logprob) | {"top_logprobs": [entry(*other) for other in item.top]} for item in tokens
    ]
