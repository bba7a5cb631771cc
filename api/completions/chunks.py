"""Events -> text_completion objects. Pure: the same logs give the same chunks, byte for byte.

A request with several prompts has one job per prompt. Their logs are read one after the other: a `Finished` ends a
prompt, and the second prompt's first choice has the index n.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from api.jobs.endpoint import AnswerProgress, Endpoint, Unfinished, unfinished_completion
from api.reading.choice import TokenDecoder
from api.request.response_meta import ResponseMeta
from common.wire import Delta, Event, Failed, Finished, Tier, TokenLogprob


@dataclass(frozen=True, slots=True)
class ShownPrompt:
    """The parts of a prompt that the answer shows."""

    echo: str | None = None  # the prompt's text, in front of the answer's
    ids: tuple[int, ...] | None = None  # for return_token_ids


@dataclass(frozen=True, slots=True)
class CompletionMeta(ResponseMeta):
    n: int = 1
    include_usage: bool = False
    logprobs: bool = False
    prompts: tuple[ShownPrompt, ...] = (ShownPrompt(),)  # one per job
    service_tier: Tier | None = None  # None: not shown

    @staticmethod
    def num_jobs(form: Mapping[str, Any]) -> int:
        return int(form["num_prompts"])

    def forms(self) -> list[dict[str, Any]]:
        """Each job stores its own prompt only."""
        shared: dict[str, Any] = {
            "id": self.id,
            "model": self.model,
            "created": self.created,
            "n": self.n,
            "num_prompts": len(self.prompts),
            "include_usage": self.include_usage,
            "logprobs": self.logprobs,
        }
        if self.service_tier:
            shared["service_tier"] = self.service_tier
        return [shared | {"echo": prompt.echo, "prompt_ids": prompt.ids} for prompt in self.prompts]

    @classmethod
    def from_forms(cls, forms: Sequence[Mapping[str, Any]]) -> Self:
        fields = dict(forms[0])
        for name in ("num_prompts", "echo", "prompt_ids"):
            del fields[name]
        prompts = tuple(
            ShownPrompt(form["echo"], None if form["prompt_ids"] is None else tuple(form["prompt_ids"]))
            for form in forms
        )
        return cls(**fields, prompts=prompts)


def total_usage(ends: Iterable[Finished]) -> dict[str, Any]:
    """Usage of all prompts together."""
    ends = list(ends)
    prompt_tokens = sum(end.prompt_tokens for end in ends)
    completion_tokens = sum(end.completion_tokens for end in ends)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(end.cached_tokens for end in ends)},
    }


@dataclass(slots=True)
class ChoiceText:
    """Text of one choice: the part that a chunk adds or, folded, all of it."""

    decoder: TokenDecoder
    with_logprobs: bool
    num_characters: int = 0  # so far, including the echoed prompt
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    finish_reason: str | None = None

    def part(self, event: Delta, echo: str = "") -> "ChoiceText":
        """The text that the event adds, as a choice of its own."""
        offset = self.num_characters + len(echo)
        part = replace(self, text=echo + event.text, token_ids=list(event.token_ids), logprobs={})
        part.finish_reason = event.finish_reason
        if self.with_logprobs and event.logprobs:
            part.logprobs, self.num_characters = legacy_logprobs(event.logprobs, self.decoder, offset)
        else:
            self.num_characters = offset
        return part

    def add(self, part: "ChoiceText") -> None:
        self.text += part.text
        self.token_ids += part.token_ids
        self.finish_reason = part.finish_reason
        for name, values in part.logprobs.items():
            self.logprobs.setdefault(name, []).extend(values)


def legacy_logprobs(
    items: Iterable[TokenLogprob], decoder: TokenDecoder, offset: int
) -> tuple[dict[str, list[Any]], int]:
    """OpenAI's older format, parallel lists, and the next token's offset. Offsets count the tokens' own characters."""
    tokens, logprobs, tops, offsets = [], [], [], []
    for item in items:
        text = decoder.token_bytes(item.token_id)[0]
        tokens.append(text)
        logprobs.append(item.logprob)
        others = {decoder.token_bytes(token_id)[0]: logprob for token_id, logprob in item.top}
        tops.append(others | {text: item.logprob})
        offsets.append(offset)
        offset += len(text)
    return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}, offset


class PromptCursor:
    """Position in the logs: the prompt whose job is being read, and each choice's text so far."""

    def __init__(self, meta: CompletionMeta, decoder: TokenDecoder) -> None:
        self.meta = meta
        self.ends: list[Finished] = []
        self.choices = [ChoiceText(decoder, meta.logprobs) for _ in range(meta.n * len(meta.prompts))]
        self._begun: set[int] = set()

    @property
    def is_at_end(self) -> bool:
        return len(self.ends) == len(self.meta.prompts)

    def add(self, event: Delta) -> tuple[int, ChoiceText, bool]:
        """The choice's number, the text that the event adds to it, and whether that is its first."""
        prompt = self.meta.prompts[len(self.ends)]
        number = len(self.ends) * self.meta.n + event.index
        is_first = number not in self._begun
        self._begun.add(number)
        return number, self.choices[number].part(event, (prompt.echo or "") if is_first else ""), is_first

    def choice(self, number: int, choice: ChoiceText, *, with_prompt: bool) -> dict[str, Any]:
        """OpenAI's choice object, with token ids where the request asks for them."""
        shown: dict[str, Any] = {
            "index": number,
            "text": choice.text,
            "logprobs": choice.logprobs or None,
            "finish_reason": choice.finish_reason,
        }
        prompt_ids = self.meta.prompts[number // self.meta.n].ids
        if prompt_ids is not None:
            shown["prompt_token_ids"] = list(prompt_ids) if with_prompt else None
            shown["token_ids"] = choice.token_ids
        return shown

    def head(self) -> dict[str, Any]:
        meta = self.meta
        head = {"id": meta.id, "object": "text_completion", "created": meta.created, "model": meta.model}
        return head | ({"service_tier": meta.service_tier} if meta.service_tier else {})


class CompletionChunks:
    """Turns the jobs' events into chunks. Feed every event once, in log order, one job after the other."""

    def __init__(self, meta: CompletionMeta, decoder: TokenDecoder) -> None:
        self.meta = meta
        self._cursor = PromptCursor(meta, decoder)

    def opening(self) -> list[dict[str, Any]]:
        return []

    def feed(self, event: Event) -> list[dict[str, Any]]:
        """The chunks of one event; none for a Failed, which the stream reports in a frame of its own."""
        cursor = self._cursor
        if isinstance(event, Delta):
            number, part, is_first = cursor.add(event)
            shows = part.text or part.logprobs or part.finish_reason or self.meta.prompts[0].ids is not None
            return [self._chunk([cursor.choice(number, part, with_prompt=is_first)])] if shows else []
        if isinstance(event, Finished):
            cursor.ends.append(event)
            if cursor.is_at_end and self.meta.include_usage:
                return [self._chunk([]) | {"usage": total_usage(cursor.ends)}]
        return []

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {"usage": None} if self.meta.include_usage else {}
        return self._cursor.head() | {"choices": choices} | usage


class TextCompletion:
    """Folds the jobs' events into one text_completion."""

    def __init__(self, meta: CompletionMeta, decoder: TokenDecoder) -> None:
        self.failed: Failed | None = None
        self._cursor = PromptCursor(meta, decoder)

    def feed(self, event: Event) -> None:
        cursor = self._cursor
        if isinstance(event, Delta):
            number, part, _ = cursor.add(event)
            cursor.choices[number].add(part)
        elif isinstance(event, Finished):
            cursor.ends.append(event)
        else:
            self.failed = event

    def body(self) -> dict[str, Any]:
        cursor = self._cursor
        choices = [cursor.choice(number, choice, with_prompt=True) for number, choice in enumerate(cursor.choices)]
        return cursor.head() | {"choices": choices, "usage": total_usage(cursor.ends)}


def unfinished_text(meta: CompletionMeta, progress: AnswerProgress) -> Unfinished:
    return unfinished_completion(meta, progress, "text_completion")


COMPLETION = Endpoint(
    kind="completion",
    name="a text completion",
    meta=CompletionMeta,
    chunks=CompletionChunks,
    completion=TextCompletion,
    unfinished=unfinished_text,
)
