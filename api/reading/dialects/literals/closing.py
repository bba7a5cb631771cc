"""Finds a block's closing marker, which models leave out at times."""

from api.reading.pieces import num_held


class ClosingMark:
    """Fed with the text after a block's last call. An empty marker: there is none."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._held = ""

    def after(self, text: str, *, is_spoilt: bool) -> str | None:
        """The text after the marker, or the whole text if it does not begin with it. None while undecided.

        `is_spoilt`: a call broke off, so all text up to the marker belongs to it.
        """
        self._held += text
        if is_spoilt:
            _, found, rest = self._held.partition(self._mark) if self._mark else ("", "", "")
            self._held = self._held[len(self._held) - num_held(self._held, [self._mark]) :] if self._mark else ""
            return rest if found else None
        self._held = self._held.lstrip()
        if self._mark and self._held.startswith(self._mark):
            return self._held[len(self._mark) :]
        return None if self._mark.startswith(self._held) and self._mark != self._held else self._held
