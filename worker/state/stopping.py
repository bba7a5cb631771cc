"""Why and where a sequence ends: stop tokens, length, and stop strings, which are never shown."""

from common.wire import FinishReason
from worker.state.detokenizer import Detokenizer


def finish_reason(
    last_token_id: int,
    num_completion_tokens: int,
    num_tokens: int,
    *,
    stop_token_ids: frozenset[int],
    max_tokens: int,
    max_model_len: int,
) -> FinishReason | None:
    """Why the sequence ends with this token, or None if it goes on. A stop token wins over the length."""
    if last_token_id in stop_token_ids:
        return "stop"
    if num_completion_tokens >= max_tokens or num_tokens >= max_model_len:
        return "length"
    return None


class StopStrings:
    """Passes text through until one of `stops` appears; holds back text that may begin one."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self.stops = tuple(stop for stop in stops if stop)
        self.held = ""
        self.has_matched = False

    def push(self, text: str) -> str:
        """The text that may be shown now. After a match nothing more is ever shown."""
        if self.has_matched:
            return ""
        if not self.stops:
            return text
        self.held += text
        matches = [(at + len(stop), at) for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if matches:
            self.has_matched = True
            return self._release(min(matches)[1])  # the one completed first, however the text was split
        return self._release(len(self.held) - self._num_suspicious())

    def flush(self) -> str:
        """The held text, when no stop string followed."""
        return "" if self.has_matched else self._release(len(self.held))

    def _num_suspicious(self) -> int:
        """Length of the longest suffix of `held` that begins a stop string."""
        longest = max(len(stop) for stop in self.stops) - 1
        for num_chars in range(min(longest, len(self.held)), 0, -1):
            tail = self.held[-num_chars:]
            if any(stop.startswith(tail) for stop in self.stops):
                return num_chars
        return 0

    def _release(self, num_chars: int) -> str:
        shown, self.held = self.held[:num_chars], self.held[num_chars:]
        return shown


class VisibleText:
    """The text of one sequence as its reader sees it: whole characters, nothing of a stop string."""

    def __init__(self, detokenizer: Detokenizer, stops: tuple[str, ...], min_tokens: int) -> None:
        self._detokenizer = detokenizer
        self._stops = StopStrings(stops)
        self._num_tokens_before_stops = min_tokens
        self._has_begun = False  # until then what is held is the prompt's

    @property
    def is_stopped(self) -> bool:
        return self._stops.has_matched

    def push(self, token_id: int) -> str:
        """The text that this token makes visible."""
        text, self._has_begun = self._detokenizer.push(token_id), True
        if self._num_tokens_before_stops > 0:  # stop strings count only after min_tokens
            self._num_tokens_before_stops -= 1
            return text
        return self._stops.push(text)

    def flush(self) -> str:
        """The text held at the end of the sequence, with U+FFFD for an incomplete character."""
        if self.is_stopped or not self._has_begun:
            return ""
        return self._stops.flush() + self._detokenizer.flush()
