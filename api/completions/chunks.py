"""Events -> text_completion objects. Pure: the same logs give the same chunks, so any process can make them again.

A request with several prompts is one job per prompt. Their logs are read one after the other, so a `Finished` ends a
prompt, and choice numbers go on: prompt 2's first choice is number n.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from common.wire import Delta, Event, Failed, Finished, TokenLogprob

TokenText = Callable[[int], str]


@dataclass(frozen=True, slots=True)
class CompletionForm:
    """How one answer is worded; stored with each of its jobs, with what that job's own prompt was."""

    id: str  # of the answer, and of its first job
    model: str
    created: int
    n: int = 1
    num_prompts: int = 1
    include_usage: bool = False
    logprobs: bool = False
    echo: str | None = None  # the prompt's text, to stand before the answer
    prompt_ids: tuple[int, ...] | None = None  # to be shown with the answer (return_token_ids)
    kind: str = "completion"


def job_ids(answer_id: str, num_prompts: int) -> list[str]:
    """The jobs of one answer, in the order of its prompts; the first bears the answer's id."""
    return [answer_id, *(f"{answer_id}-{number}" for number in range(1, num_prompts))]


def total_usage(ends: Iterable[Finished]) -> dict[str, Any]:
    """All prompts together."""
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
    """One choice as it grows: the part that a chunk adds and, folded, the whole."""

    token_text: TokenText
    with_logprobs: bool
    num_characters: int = 0  # of the tokens so far, echoed prompt included
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    finish_reason: str | None = None

    def part(self, event: Delta, echo: str = "") -> "ChoiceText":
        """What the event adds, as a choice of its own."""
        offset = self.num_characters + len(echo)
        part = replace(self, text=echo + event.text, token_ids=list(event.token_ids), logprobs={})
        part.finish_reason = event.finish_reason
        if self.with_logprobs and event.logprobs:
            part.logprobs, self.num_characters = legacy_logprobs(event.logprobs, self.token_text, offset)
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
    items: Iterable[TokenLogprob], token_text: TokenText, offset: int
) -> tuple[dict[str, list[Any]], int]:
    """OpenAI's older form: parallel lists; `text_offset` counts the tokens' own characters. Also where it ends."""
    tokens, logprobs, tops, offsets = [], [], [], []
    for item in items:
        text = token_text(item.token_id)
        tokens.append(text)
        logprobs.append(item.logprob)
        tops.append({token_text(token_id): logprob for token_id, logprob in item.top} | {text: item.logprob})
        offsets.append(offset)
        offset += len(text)
    return {"tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets}, offset


class _Reading:
    """Where the formatter is in the logs: which prompt, and each choice's text so far."""

    def __init__(self, forms: list[CompletionForm], token_text: TokenText) -> None:
        self.form = forms[0]
        self.forms = forms
        self.ends: list[Finished] = []
        self.choices = [ChoiceText(token_text, self.form.logprobs) for _ in range(self.form.n * len(forms))]
        self._begun: set[int] = set()

    def add(self, event: Delta) -> tuple[int, ChoiceText, bool]:
        """The choice's number, what the event adds to it, and whether that is its beginning."""
        form = self.forms[len(self.ends)]
        number = len(self.ends) * form.n + event.index
        is_first = number not in self._begun
        self._begun.add(number)
        return number, self.choices[number].part(event, (form.echo or "") if is_first else ""), is_first

    def choice(self, number: int, choice: ChoiceText, *, with_prompt: bool) -> dict[str, Any]:
        """OpenAI's choice object; with token ids when they were asked for."""
        shown: dict[str, Any] = {
            "index": number,
            "text": choice.text,
            "logprobs": choice.logprobs or None,
            "finish_reason": choice.finish_reason,
        }
        prompt_ids = self.forms[number // self.form.n].prompt_ids
        if prompt_ids is not None:
            shown["prompt_token_ids"] = list(prompt_ids) if with_prompt else None
            shown["token_ids"] = choice.token_ids
        return shown

    def head(self) -> dict[str, Any]:
        form = self.form
        return {"id": form.id, "object": "text_completion", "created": form.created, "model": form.model}


class CompletionChunks:
    """Turns the jobs' events into chunks, one call an event, in log order from the first."""

    def __init__(self, forms: list[CompletionForm], token_text: TokenText) -> None:
        self._reading = _Reading(forms, token_text)

    def opening(self) -> list[dict[str, Any]]:
        return []

    def feed(self, event: Event) -> list[dict[str, Any]]:
        """The chunks of one event; none for a Failed, whose error the stream carries as its own frame."""
        reading = self._reading
        if isinstance(event, Delta):
            number, part, is_first = reading.add(event)
            shows = part.text or part.logprobs or part.finish_reason or reading.form.prompt_ids is not None
            return [self._chunk([reading.choice(number, part, with_prompt=is_first)])] if shows else []
        if isinstance(event, Finished):
            reading.ends.append(event)
            if len(reading.ends) == len(reading.forms) and reading.form.include_usage:
                return [self._chunk([]) | {"usage": total_usage(reading.ends)}]
        return []

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {"usage": None} if self._reading.form.include_usage else {}
        return self._reading.head() | {"choices": choices} | usage


class TextCompletion:
    """The same events folded into one text_completion."""

    def __init__(self, forms: list[CompletionForm], token_text: TokenText) -> None:
        self.failed: Failed | None = None
        self._reading = _Reading(forms, token_text)

    def feed(self, event: Event) -> None:
        reading = self._reading
        if isinstance(event, Delta):
            number, part, _ = reading.add(event)
            reading.choices[number].add(part)
        elif isinstance(event, Finished):
            reading.ends.append(event)
        else:
            self.failed = event

    def body(self) -> dict[str, Any]:
        reading = self._reading
        choices = [reading.choice(number, choice, with_prompt=True) for number, choice in enumerate(reading.choices)]
        return reading.head() | {"choices": choices, "usage": total_usage(reading.ends)}
