"""What the tests of all dialects need to know of one dialect."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Example:
    """Texts of one dialect, which tests cut, break off, shuffle and hold against its grammar."""

    written: str  # an answer of nothing but calls, the first one with arguments
    parts: tuple[str, ...]  # pieces of such answers, which a test puts together at random
    before_text: str = field(default="", kw_only=True)  # the mark that the grammar wants before free text
    allowed: str  # a call of get_weather with the city Rome, or of walk with a root, as the grammar has it
