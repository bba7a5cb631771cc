"""Why and where a sequence ends: end tokens, length, and stop strings whose text is never shown."""

from common.wire import FinishReason
from worker.state.detokenizer import Detokenizer


def finish_reason(
    last_token_id: int,
    num_completion_tokens: int,
    num_tokens: int,
    *,
    ends: frozenset[int],
    max_tokens: int,
    max_model_len: int,
) -> FinishReason | None:
    """Why the sequence ends with this token, or None if it goes on. An end token wins over the length."""
    if last_token_id in ends:
        return "stop"
    if num_completion_tokens >= max_tokens or num_tokens >= max_model_len:
        return "length"
    return None


class StopStrings:
    """Passes text through until one of `stops` appears; holds back whatever may be the beginning of one."""

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
            return self._release(min(matches)[1])  # the one that was complete first, however the text was cut
        return self._release(len(self.held) - self._num_suspicious())

    def flush(self) -> str:
        """What was held although no stop string came."""
        return "" if self.has_matched else self._release(len(self.held))

    def _num_suspicious(self) -> int:
        """Length of the longest end of `held` that a stop string begins with."""
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
    """The text a reader has seen of one sequence: whole characters, and nothing of a stop string."""

    def __init__(self, detokenizer: Detokenizer, stops: tuple[str, ...], min_tokens: int) -> None:
        self._detokenizer = detokenizer
        self._stops = StopStrings(stops)
        self._num_tokens_before_stops = min_tokens

    @property
    def is_stopped(self) -> bool:
        return self._stops.has_matched

    def push(self, token_id: int) -> str:
        """The text this token made visible."""
        text = self._detokenizer.push(token_id)
        if self._num_tokens_before_stops > 0:  # a stop string counts only once min_tokens are out
            self._num_tokens_before_stops -= 1
            return text
        return self._stops.push(text)

    def flush(self) -> str:
        """What was held at the end of the sequence although no stop string came; half a character is left out."""
        return self._stops.flush()
