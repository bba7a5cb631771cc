"""Events -> chat.completion and chat.completion.chunk. Pure: the same log always gives the same chunks, byte for byte.

That is what makes a stream resumable anywhere: chunks are numbered, and any process can make them again from the log.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from common.wire import Delta, Event, Failed, Finished, TokenLogprob

TokenBytes = Callable[[int], tuple[str, list[int]]]


@dataclass(frozen=True, slots=True)
class ChatForm:
    """How one chat answer is worded; stored with the job (Submission.form)."""

    id: str
    model: str
    created: int
    n: int = 1
    include_usage: bool = False
    logprobs: bool = False
    kind: str = "chat"


def usage_of(event: Finished) -> dict[str, Any]:
    return {
        "prompt_tokens": event.prompt_tokens,
        "completion_tokens": event.completion_tokens,
        "total_tokens": event.prompt_tokens + event.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": event.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def logprobs_of(tokens: Iterable[TokenLogprob], token_bytes: TokenBytes) -> dict[str, Any]:
    """OpenAI's logprobs object of one choice or chunk."""

    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        text, raw = token_bytes(token_id)
        return {"token": text, "logprob": logprob, "bytes": raw}

    content = [
        entry(item.token_id, item.logprob) | {"top_logprobs": [entry(*other) for other in item.top]} for item in tokens
    ]
    return {"content": content, "refusal": None}


class ChatChunks:
    """Turns a job's events into chunks, one call an event, in log order from the first."""

    def __init__(self, form: ChatForm, token_bytes: TokenBytes) -> None:
        self.form = form
        self.token_bytes = token_bytes
        self._seen: set[int] = set()

    def feed(self, event: Event) -> list[dict[str, Any]]:
        """The chunks of one event; none for a Failed, whose error the stream carries as its own frame."""
        if isinstance(event, Delta):
            return self._delta(event)
        if isinstance(event, Finished) and self.form.include_usage:
            return [self._chunk([]) | {"usage": usage_of(event)}]
        return []

    def _delta(self, event: Delta) -> list[dict[str, Any]]:
        chunks = []
        if event.index not in self._seen:
            self._seen.add(event.index)
            chunks.append(self._choice(event.index, {"role": "assistant", "content": ""}))
        if event.text or event.logprobs:
            logprobs = logprobs_of(event.logprobs, self.token_bytes) if event.logprobs else None
            chunks.append(self._choice(event.index, {"content": event.text}, logprobs))
        if event.finish_reason is not None:
            chunks.append(self._choice(event.index, {}, finish_reason=event.finish_reason))
        return chunks

    def _choice(
        self, index: int, delta: dict[str, Any], logprobs: Any = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        return self._chunk([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}])

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk: dict[str, Any] = {
            "id": self.form.id,
            "object": "chat.completion.chunk",
            "created": self.form.created,
            "model": self.form.model,
            "choices": choices,
        }
        if self.form.include_usage:
            chunk["usage"] = None
        return chunk


@dataclass(slots=True)
class _Choice:
    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None


class ChatCompletion:
    """The same events folded into one chat.completion."""

    def __init__(self, form: ChatForm, token_bytes: TokenBytes) -> None:
        self.form = form
        self.token_bytes = token_bytes
        self.failed: Failed | None = None
        self._choices = [_Choice() for _ in range(form.n)]
        self._usage: dict[str, Any] | None = None

    def feed(self, event: Event) -> None:
        if isinstance(event, Delta):
            choice = self._choices[event.index]
            choice.text.append(event.text)
            choice.logprobs.extend(event.logprobs)
            choice.finish_reason = event.finish_reason
        elif isinstance(event, Finished):
            self._usage = usage_of(event)
        else:
            self.failed = event

    def body(self) -> dict[str, Any]:
        return {
            "id": self.form.id,
            "object": "chat.completion",
            "created": self.form.created,
            "model": self.form.model,
            "choices": [self._choice(index, choice) for index, choice in enumerate(self._choices)],
            "usage": self._usage,
        }

    def _choice(self, index: int, choice: _Choice) -> dict[str, Any]:
        return {
            "index": index,
            "message": {"role": "assistant", "content": "".join(choice.text), "refusal": None},
            "logprobs": logprobs_of(choice.logprobs, self.token_bytes) if self.form.logprobs else None,
            "finish_reason": choice.finish_reason,
        }
