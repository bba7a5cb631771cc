"""Parses a whole answer: reasoning first, then content and tool calls."""

from collections.abc import Iterable

from api.reading.dialects.dialect import ToolDialect
from api.reading.harmony.channels import ChannelParser
from api.reading.parameters import NO_KINDS, Kinds
from api.reading.pieces import Content, Piece, merged
from api.reading.reasoning import ReasoningParser
from api.reading.thinking.form import ReasoningForm
from api.reading.thinking.known import THINK
from api.reading.tool_calls import ToolCallParser


class AnswerParser:
    """Feed it the text of one choice. `is_opened`: it begins inside the reasoning. `dialect` None: calls are text."""

    def __init__(
        self,
        dialect: ToolDialect | None,
        id_seed: str,
        kinds: Kinds = NO_KINDS,
        *,
        form: ReasoningForm = THINK,
        is_opened: bool = False,
        must_call: bool = False,
    ) -> None:
        self._reasoning = (
            ChannelParser(opened=is_opened, passes_calls=dialect is not None)
            if form.has_channels
            else ReasoningParser(form, opened=is_opened, is_forced=must_call)
        )
        self._tool_calls = ToolCallParser(dialect, id_seed, kinds, must_call=must_call) if dialect else None

    @property
    def is_thinking(self) -> bool:
        """The text fed so far ends inside the reasoning."""
        return self._reasoning.is_thinking

    @property
    def has_called(self) -> bool:
        """There are calls, and all of them are complete."""
        return self._tool_calls is not None and self._tool_calls.has_called

    def feed(self, text: str) -> list[Piece]:
        return self._with_calls(self._reasoning.feed(text))

    def finish(self, *, is_cut: bool = False) -> list[Piece]:
        """The pieces held back, when no text follows. `is_cut`: the model did not end the answer itself."""
        pieces = self._with_calls(self._reasoning.finish())
        return merged([*pieces, *(self._tool_calls.finish(is_cut=is_cut) if self._tool_calls else [])])

    def _with_calls(self, pieces: Iterable[Piece]) -> list[Piece]:
        if self._tool_calls is None:
            return merged(pieces)
        result: list[Piece] = []
        for piece in pieces:
            result += self._tool_calls.feed(piece.text) if isinstance(piece, Content) else [piece]
        return merged(result)
