"""Turns the text of an answer into content and tool calls, in the format that the model writes calls in.

Blank space before a call is left out, and text that may be the beginning of a call's markup is held back. What turns
out to be no call comes out as the text that it was, unless the answer was cut off before that was clear.
"""

from typing import Protocol

from api.reading import dsml, hermes, llama3, mistral
from api.reading.pieces import CallPieces, Content, Piece, merged, num_held
from common.grammar.tools import ToolCallFormat

OTHER_FORMATS = ("<function=", "<arg_key>", "<|tool_calls_section_begin|>")  # like ours in part, but not readable here


class CallBlock(Protocol):
    """One stretch of calls, from its opening marker on."""

    def read(self, text: str) -> tuple[list[Piece], str | None]: ...

    def finish(self) -> list[Piece]: ...


class ToolCallParser:
    """Feed it an answer's text. `id_seed` names the answer: job and choice. `must_call`: it holds calls only."""

    def __init__(self, format: ToolCallFormat, id_seed: str, *, must_call: bool = False) -> None:
        self._format = format
        self._calls = CallPieces(id_seed, short_ids=format in ("mistral", "mistral_args"))
        self._opening = opening_of(format)
        self._must_call = must_call
        self._block: CallBlock | None = None
        self._is_marked = False  # the block began with the opening marker
        self._held = ""  # blank space, and what may begin a call
        self._has_text = False

    @property
    def has_called(self) -> bool:
        """There are calls, and each of them is whole."""
        return 0 < self._calls.num_started == self._calls.num_ended

    def feed(self, text: str) -> list[Piece]:
        pieces: list[Piece] = []
        rest: str | None = text
        while rest:
            rest = self._read_block(rest, pieces) if self._block else self._read_text(rest, pieces)
        return merged(pieces)

    def finish(self, *, is_cut: bool = False) -> list[Piece]:
        """What was held back, now that nothing follows. A call that was cut off (`is_cut`) is no text."""
        block, self._block = self._block, None
        held, self._held = self._held, ""
        pieces = block.finish() if block and not (is_cut and (self._is_marked or self._must_call)) else []
        if (held.strip() or not self._calls.num_started) and not (is_cut and self._must_call):
            pieces.append(Content(held))
        return merged(pieces)

    def _read_block(self, text: str, pieces: list[Piece]) -> str | None:
        assert self._block is not None
        more, rest = self._block.read(text)
        pieces += more
        if rest is not None:
            self._block = None
            self._has_text = True
        return rest

    def _read_text(self, text: str, pieces: list[Piece]) -> str | None:
        """Give out what is certainly content; the text after an opening marker."""
        self._held += text
        begun = self._held.lstrip()
        if self._format == "llama3_json" and not self._has_text and begun.startswith("{"):
            return self._open(self._held[: len(self._held) - len(begun)], begun)
        content, opening, rest = self._held.partition(self._opening)
        said = content[: len(content) - (0 if opening else num_held(content, [self._opening]))].rstrip()
        if said:
            pieces.append(Content(said))
            self._has_text = True
        if opening:
            return self._open(content[len(said) :] + opening, rest)
        self._held = self._held[len(said) :]
        return None

    def _open(self, before: str, rest: str) -> str:
        self._held = ""
        self._is_marked = self._opening in before
        self._block = new_block(self._format, self._calls, before)
        return rest


def opening_of(format: ToolCallFormat) -> str:
    """The marker that begins a call anywhere in a text."""
    openings: dict[ToolCallFormat, str] = {
        "hermes": hermes.OPENING,
        "llama3_json": llama3.OPENING,
        "deepseek_v32": dsml.OPENING,
        "mistral": mistral.OPENING,
        "mistral_args": mistral.OPENING,
    }
    return openings[format]


def new_block(format: ToolCallFormat, calls: CallPieces, before: str) -> CallBlock:
    if format == "hermes":
        return hermes.HermesBlock(calls, before)
    if format == "llama3_json":
        return llama3.Llama3Block(calls, before)
    if format == "deepseek_v32":
        return dsml.DsmlBlock(calls, before)
    return mistral.MistralBlock(calls, before)


def choose_format(chat_template: str | None, architecture: str) -> ToolCallFormat | None:
    """The format in which a model writes calls, read off its chat template; None if it is none of ours."""
    if architecture == "deepseek_v32":
        return "deepseek_v32"
    template = chat_template or ""
    if dsml.OPENING in template:
        return "deepseek_v32"
    if mistral.OPENING in template:
        return "mistral_args" if "[ARGS]" in template else "mistral"
    if any(marker in template for marker in OTHER_FORMATS):
        return None
    if hermes.OPENING in template:
        return "hermes"
    return "llama3_json" if llama3.OPENING in template or '"parameters": ' in template else None
