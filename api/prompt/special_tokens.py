"""Guard: hides control tokens in a caller's text while a template is rendered, so that they stay text."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

OPEN, CLOSE = "\ue000", "\ue001"  # around the number that stands for a hidden token
STRETCH = 32 * 1024  # characters
OWN_FIELDS = ("content", "reasoning_content", "reasoning", "thinking")
HIDDEN = re.compile(f"{OPEN}(\\d+){CLOSE}")


@dataclass(frozen=True, slots=True)
class TokenPattern:
    """Finds any of some tokens."""

    regex: re.Pattern[str]
    longest: int  # of the tokens, in characters

    @classmethod
    def of(cls, tokens: Sequence[str]) -> "TokenPattern | None":
        longest_first = sorted(filter(None, tokens), key=len, reverse=True)
        return (
            cls(re.compile("|".join(map(re.escape, longest_first))), len(longest_first[0])) if longest_first else None
        )


class Guard:
    """Hides the control tokens in one conversation and finds them again in the rendered text.

    `special` are hidden everywhere. `markup` (`<think>`, `<tool_call>`) is hidden but in a text that the model wrote
    itself (`is_own`): an earlier turn may hold its reasoning and calls.
    """

    def __init__(self, special: Sequence[str], markup: Sequence[str] = ()) -> None:
        self._of_callers = TokenPattern.of([*special, *markup])
        self._of_model = TokenPattern.of(special)
        self._hidden: list[str] = []
        self._numbers: dict[str, int] = {}  # a token is written alike each time: ids are compared

    def text(self, text: str, *, is_own: bool = False) -> str:
        text = text.replace(OPEN, "\ufffd").replace(CLOSE, "\ufffd")
        tokens = self._of_model if is_own else self._of_callers
        if tokens is None:
            return text
        return tokens.regex.sub(self._hide, text) if len(text) <= STRETCH else "".join(self._stretches(text, tokens))

    def _stretches(self, text: str, tokens: TokenPattern) -> Iterator[str]:
        """re.sub on a long text, stretch by stretch, because a search holds the GIL."""
        at = 0
        while at < len(text):
            end = at + STRETCH
            match = tokens.regex.search(text, at, end + tokens.longest)
            if match is None or match.start() >= end:
                yield text[at:end]
                at = end
                continue
            yield text[at : match.start()]
            yield self._hide(match)
            at = match.end()

    def value(self, value: Any, *, is_own: bool = False) -> Any:
        """text() for every string in a JSON value, names included."""
        if isinstance(value, str):
            return self.text(value, is_own=is_own)
        if isinstance(value, list):
            return [self.value(item, is_own=is_own) for item in value]
        if isinstance(value, dict):
            return {self.text(name): self.value(item, is_own=is_own) for name, item in value.items()}
        return value

    def message(self, message: dict[str, Any]) -> dict[str, Any]:
        """value() for a message. An assistant's text and reasoning are the model's own, its arguments are not."""
        is_own = message["role"] == "assistant"
        return {name: self.value(item, is_own=is_own and name in OWN_FIELDS) for name, item in message.items()}

    def parts(self, rendered: str) -> Iterator[tuple[str, str]]:
        """Pairs of (text, hidden token after it); the last token is empty."""
        at = 0
        for match in HIDDEN.finditer(rendered):
            if int(match[1]) >= len(self._hidden):  # the template's own characters
                continue
            yield rendered[at : match.start()], self._hidden[int(match[1])]
            at = match.end()
        yield rendered[at:], ""

    def _hide(self, match: re.Match[str]) -> str:
        if match[0] not in self._numbers:
            self._numbers[match[0]] = len(self._hidden)
            self._hidden.append(match[0])
        return f"{OPEN}{self._numbers[match[0]]}{CLOSE}"
