"""The tokens that a tokenizer puts around a text, and around and between the two texts of a pair."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Encoding, Tokenizer

Ids = Sequence[int]


@dataclass(frozen=True, slots=True)
class TextFrame:
    """One text: `before` and `after` are put around it."""

    before: tuple[int, ...]
    after: tuple[int, ...]

    @property
    def size(self) -> int:
        return len(self.before) + len(self.after)

    def framed(self, ids: Ids) -> list[int]:
        return [*self.before, *ids, *self.after]


@dataclass(frozen=True, slots=True)
class PairFrame:
    """Two texts as one input of a cross-encoder."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    num_of_first: int | None  # of `between`'s tokens, those of the first text's type; None: there is one type only

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def framed(self, first: Ids, second: Ids) -> tuple[list[int], int]:
        """The ids of the pair, and where the type of the second text begins."""
        ids = [*self.before, *first, *self.between, *second, *self.after]
        is_one_type = self.num_of_first is None
        return ids, len(ids) if is_one_type else len(self.before) + len(first) + (self.num_of_first or 0)


def text_frame(tokenizer: Tokenizer) -> TextFrame:
    """The frame of one text. The tokenizer neither truncates nor pads."""
    encoding = tokenizer.encode("a")
    at, end = span_of(encoding, 0)
    return TextFrame(tuple(encoding.ids[:at]), tuple(encoding.ids[end:]))


def pair_frame(tokenizer: Tokenizer) -> PairFrame:
    """The frame of a pair. Raises ValueError where it depends on more than the two texts."""
    encoding = tokenizer.encode("a", "b")
    ids, types = encoding.ids, encoding.type_ids
    (first, end), (second, last) = span_of(encoding, 0), span_of(encoding, 1)
    num_zeros = types.count(0)
    is_plain = types == [0] * num_zeros + [1] * (len(ids) - num_zeros) and end <= second
    if not is_plain or not (end <= num_zeros <= second or num_zeros == len(ids)):
        raise ValueError("its tokenizer joins the texts of a pair in a way that is not known here.")
    num_of_first = None if num_zeros == len(ids) else num_zeros - end
    return PairFrame(tuple(ids[:first]), tuple(ids[end:second]), tuple(ids[last:]), num_of_first)


def span_of(encoding: Encoding, text: int) -> tuple[int, int]:
    """Where the tokens of the text with this number begin and end. Raises ValueError if it has none."""
    places = [at for at, number in enumerate(encoding.sequence_ids) if number == text]
    if not places:
        raise ValueError("its tokenizer leaves letters out.")
    return places[0], places[-1] + 1


def longest_first(num_first: int, num_second: int, room: int) -> tuple[int, int]:
    """How many tokens of each text fit the room if the longer text is cut first, as tokenizers do it."""
    if num_first + num_second <= room:
        return num_first, num_second
    shorter = min(num_first, num_second)
    short, long = (shorter, room - shorter) if shorter <= room - shorter else (room // 2, room - room // 2)
    return (long, short) if num_first > num_second else (short, long)
