"""How a dialect writes values in its calls, as parts of a Lark grammar."""

from collections.abc import Callable
from dataclasses import dataclass
from re import Pattern

from common.grammar.answer import MarkedText


@dataclass(frozen=True, slots=True)
class Notation:
    """Numbers are written as in JSON by all of them. All strings here are Lark expressions unless noted otherwise."""

    string: Callable[[MarkedText, str, int, int | None], list[str]]  # lines that define a rule: strings so long
    constant: Callable[[MarkedText, str], str]  # this very string
    key: Callable[[MarkedText, str], str]  # of an object, with its colon
    argument: Callable[[MarkedText, str], str]  # its name and what stands before the value
    any_key: str
    any_argument: str
    key_names: Pattern[str]  # names that an object may have
    argument_names: Pattern[str]
    true: str
    false: str
    null: str
    comma: str
    is_sorted: bool = False  # keys stand in the order of the alphabet
