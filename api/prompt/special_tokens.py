"""Guard: hides special tokens in a caller's text while a template is rendered, so that they stay text."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

OPEN, CLOSE = "\ue000", "\ue001"  # around the number that stands for a hidden token
STRETCH = 32 * 1024  # characters
HIDDEN = re.compile(f"{OPEN}(\\d+){CLOSE}")


class Guard:
    """Hides the special tokens in one conversation and finds them again in the rendered text."""

    def __init__(self, special: Sequence[str]) -> None:
        longest_first = sorted(filter(None, special), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._longest = len(longest_first[0]) if longest_first else 0
        self._hidden: list[str] = []

    def text(self, text: str) -> str:
        text = text.replace(OPEN, "\ufffd").replace(CLOSE, "\ufffd")
        if self._special is None:
            return text
        return self._special.sub(self._hide, text) if len(text) <= STRETCH else "".join(self._stretches(text))

    def _stretches(self, text: str) -> Iterator[str]:
        """re.sub on a long text, stretch by stretch, because a search holds the GIL."""
        assert self._special is not None
        at = 0
        while at < len(text):
            end = at + STRETCH
            match = self._special.search(text, at, end + self._longest)
            if match is None or match.start() >= end:
                yield text[at:end]
                at = end
                continue
            yield text[at : match.start()]
            yield self._hide(match)
            at = match.end()

    def value(self, value: Any) -> Any:
        """text() for every string in a JSON value, names included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, dict):
            return {self.text(name): self.value(item) for name, item in value.items()}
        return value

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
        self._hidden.append(match[0])
        return f"{OPEN}{len(self._hidden) - 1}{CLOSE}"
