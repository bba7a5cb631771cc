"""The pieces that an answer is parsed into. A piece that was emitted is never taken back."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from api.reading.parameters import NO_KINDS, Kinds, ParameterKind


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text of the model's reasoning, before the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """The beginning of a call. Its arguments follow in pieces with the same index."""

    index: int
    id: str
    name: str
    is_custom: bool = False  # of a custom tool: its input follows in place of arguments


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More of a call's arguments (JSON text), or of a custom tool's input."""

    index: int
    text: str
    is_custom: bool = False


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """The call's arguments are complete: one JSON object. A call without this piece must not be run."""

    index: int


Piece = Content | Reasoning | ToolCallStart | ToolCallArguments | ToolCallEnd


class CallPieces:
    """Numbers the calls of one answer. Ids depend on the seed alone, so a replayed answer has the same ids.

    `kinds`: what the offered functions' schemas say of their parameters.
    """

    def __init__(self, id_seed: str, kinds: Kinds = NO_KINDS, *, short_ids: bool = False) -> None:
        self._id_seed = id_seed
        self._kinds = kinds
        self._short_ids = short_ids  # nine letters and digits
        self.num_started = 0
        self.num_ended = 0

    def start(self, name: str) -> ToolCallStart:
        digest = hashlib.sha256(f"{self._id_seed}/{self.num_started}".encode()).hexdigest()
        self.num_started += 1
        return ToolCallStart(self.num_started - 1, digest[:9] if self._short_ids else f"call_{digest[:24]}", name)

    def kind_of(self, function: str, parameter: str) -> ParameterKind:
        """What the function's schema says of a parameter."""
        return self._kinds.get(function, {}).get(parameter, "mixed")

    def kinds_of(self, function: str) -> Mapping[str, ParameterKind]:
        return self._kinds.get(function, {})

    def arguments(self, text: str) -> ToolCallArguments:
        """More arguments of the newest call."""
        return ToolCallArguments(self.num_started - 1, text)

    def end(self) -> ToolCallEnd:
        """The end of the newest call."""
        self.num_ended += 1
        return ToolCallEnd(self.num_started - 1)


class Blanks:
    """White space that is held back until other text follows. Much of it is joined only once."""

    def __init__(self) -> None:
        self._held: list[str] = []

    def hold(self, text: str) -> bool:
        """True if the text is white space, which is held now."""
        if text.isspace():
            self._held.append(text)
            return True
        return False

    def before(self, text: str) -> str:
        """The text with all that was held before it."""
        joined = "".join([*self._held, text])
        self._held.clear()
        return joined


def merged(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces with neighbours of one kind joined and empty pieces left out."""
    result: list[Piece] = []
    for piece in pieces:
        last = result[-1] if result else None
        if not isinstance(piece, ToolCallStart | ToolCallEnd) and not piece.text:
            continue
        if isinstance(piece, Content) and isinstance(last, Content):
            result[-1] = Content(last.text + piece.text)
        elif isinstance(piece, Reasoning) and isinstance(last, Reasoning):
            result[-1] = Reasoning(last.text + piece.text)
        elif isinstance(piece, ToolCallArguments) and isinstance(last, ToolCallArguments) and last.index == piece.index:
            result[-1] = replace(last, text=last.text + piece.text)
        else:
            result.append(piece)
    return result


def num_held(text: str, markers: Iterable[str]) -> int:
    """The number of characters at the end of the text that may begin a marker."""
    longest = 0
    for marker in markers:
        for length in range(min(len(marker) - 1, len(text)), longest, -1):
            if text.endswith(marker[:length]):
                longest = length
                break
    return longest
