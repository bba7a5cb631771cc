"""The record of one form of calls that writes each parameter between tags."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

MAX_TAG = 512  # characters
MAX_SPACE = 64  # between the tag that ends a value and the tag after it
BREAK = "\r"  # in the texts of a Writing: a newline or nothing
NUMBER = "\a"  # in the texts of a Writing: the call's number


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag that names something: `pattern` matches it from its `start` on (groups `name` and perhaps `type`)."""

    start: str
    end: str
    pattern: re.Pattern[str]
    stops: str = "\n"  # characters that are not in such a tag

    def match(self, text: str) -> re.Match[str] | bool:
        """The match at the beginning of the text, else True while the text may become such a tag.

        Only the text up to the first `end` decides, so that it does not matter in which pieces the text arrives.
        """
        if not text.startswith(self.start):
            return self.start.startswith(text)
        inside, end, _ = text[len(self.start) : MAX_TAG].partition(self.end)
        if any(char in inside for char in self.stops):
            return False
        if not end:
            return len(text) < MAX_TAG
        return self.pattern.match(f"{self.start}{inside}{end}") or False


@dataclass(frozen=True, slots=True)
class Writing:
    """The text around names and values as chat templates write it. `{name}` and `{type}` are filled in."""

    call: str  # from the block's opening, or the last call's end, to the first parameter
    parameter: str  # up to the value
    call_end: str  # from the last parameter on
    value_end: str = ""  # after the tag that ends a value; of elements: the end's part after the mark
    block_end: str = ""  # after the last call
    lead: str = ""  # before the first block
    between: str | None = None  # before each further block; None: one block holds all calls
    unnameable: str = '"<>\n'  # characters that no parameter's tag can name


@dataclass(frozen=True, slots=True)
class TagForm:
    """One form. Without an `opening` a block is one call, and begins with the call's own tag."""

    opening: str | None
    closing: str | None  # ends a block
    call: Tag
    call_end: str
    parameter: Tag
    parameter_end: str
    writing: Writing
    padding: str = ""  # on both sides of a value, and no part of it
    quotes: tuple[str, str] = ("", "")  # may enclose a string
    elements: str = ""  # where lists and objects are elements: the mark before each tag. parameter_end has `{name}`
    type_name: Callable[[str], str] | None = None  # how a parameter's tag names a JSON type, if it does

    def of(self, parameter: str) -> "TagForm":
        """The form with the end of this parameter."""
        return replace(self, parameter_end=self.parameter_end.format(name=parameter)) if self.elements else self

    @property
    def openings(self) -> tuple[str, ...]:
        return (self.opening or self.call.start,)

    @property
    def marks(self) -> tuple[str, ...]:
        """The texts of this form that a model may have as special tokens."""
        tags = (self.call.start, self.call_end, self.parameter.start, self.parameter_end)
        return tuple(dict.fromkeys(mark for mark in (self.closing, *tags) if mark))


@dataclass(frozen=True, slots=True)
class ValueEnds:
    """Patterns of a value's end. It is one only with a fitting tag behind it, because a value may hold such a text."""

    whole: re.Pattern[str]
    begun: re.Pattern[str]  # at the end of the text: what may become one, perhaps nothing
    last: re.Pattern[str]  # at the end of an answer


@lru_cache(maxsize=128)
def value_ends(form: TagForm, quote: str) -> ValueEnds:
    """`quote`: the mark that ends the string, if one began it."""
    padding = f"(?:{re.escape(form.padding)})?" if form.padding else ""
    end, call_end, closing = re.escape(quote + form.parameter_end), re.escape(form.call_end), form.closing or ""
    space = rf"\s{{0,{MAX_SPACE}}}"
    tags = [form.parameter.start, form.call_end, form.closing, form.opening, form.call.start]
    following = [tag for tag in dict.fromkeys(tags) if tag]
    whole, unclosed = rf"{padding}{end}(?={space}(?:{'|'.join(map(re.escape, following))}))", ""
    if closing and not quote:  # models leave out the tag that ends the last value
        unclosed = rf"|{padding}(?={call_end}{space}{re.escape(closing)})"
    begun = [
        rf"{padding}{end}{space}(?:{'|'.join(map(_beginning, following))})",
        *(_beginning(pad + mark) for mark in (quote + form.parameter_end, form.call_end) for pad in (form.padding, "")),
        rf"{padding}{call_end}{space}{_beginning(closing)}",
    ]
    ends = rf"(?:{call_end}\s*)?(?:{re.escape(closing)}\s*)?"
    last = rf"{padding}(?:{end}\s*{ends}|{call_end}\s*(?:{re.escape(closing)}\s*)?)\Z"
    return ValueEnds(re.compile(whole + unclosed), re.compile(rf"(?:{'|'.join(begun)})\Z"), re.compile(last))


def _beginning(text: str) -> str:
    """A pattern of any beginning of the text."""
    return "".join(f"(?:{re.escape(char)}" for char in text) + ")?" * len(text)
