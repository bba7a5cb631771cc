"""Judges the answers of a plan (tests/chaos/shelf_load.py): nothing lost, failed, doubled or different."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from redis import Redis

from bench.report import percentile
from tests.chaos.checker import Report, check_redis, difference
from tests.chaos.shelf_load import TIGHT_S, Answer

LATE_S = 10.0  # a worker ends what is past its deadline, once a second; it may have been killed just then
INTERACTIVE = ("chat", "deadline", "cancelled")


@dataclass
class Verdict:
    """Counts, and a sentence for each thing that is wrong."""

    num_jobs: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    ttft_s: list[float] = field(default_factory=list)  # of streaming chats
    gaps_s: list[float] = field(default_factory=list)  # the longest of each stream
    num_paused: int = 0  # streams that were told that their model is swapped out

    @property
    def all(self) -> list[str]:
        return [*self.lost, *self.failed, *self.doubled, *self.wrong, *self.hung]

    @property
    def is_clean(self) -> bool:
        return not self.all

    def ttft(self, share: float) -> float:
        return percentile(self.ttft_s, share)


def judge(answers: Sequence[Answer], texts: Mapping[int, str] | None = None) -> Verdict:
    """`texts`: the right one of each request, by its number; None: only ends are looked at."""
    verdict = Verdict(len(answers))
    for answer in answers:
        verdict.kinds[answer.ask.kind] += 1
        verdict.num_paused += any("swapped out" in comment for comment in answer.comments)
        judge_answer(verdict, answer, None if texts is None else texts[answer.ask.number])
    seen = Counter(answer.job_id for answer in answers if answer.job_id)
    verdict.doubled += [f"{job_id} answered {number} requests" for job_id, number in seen.items() if number > 1]
    return verdict


def judge_answer(verdict: Verdict, answer: Answer, text: str | None) -> None:
    ask = answer.ask
    name = f"{ask.number} ({ask.kind} of {ask.model}, {answer.job_id or 'no job'})"
    verdict.ends[answer.error.split(":")[0] or answer.finish_reason or "none"] += 1
    if ask.kind == "chat" and not answer.error:
        verdict.ttft_s.append(answer.ttft_s)
    if answer.reads:
        verdict.gaps_s.append(answer.longest_gap_s)
    judge_numbers(verdict, name, answer.numbers)
    if answer.error == "hung":
        verdict.hung.append(f"{name}: no end after {answer.ended - answer.begun:.0f} s, {len(answer.reads)} deltas")
    elif text is not None and not text.startswith(answer.text):
        verdict.wrong.append(f"{name}: {difference(answer.text, text)}")
    if answer.error == "hung" or is_meant(answer):
        return
    if answer.error:
        verdict.failed.append(f"{name}: {answer.error}")
    elif answer.num_tokens != ask.max_tokens or answer.finish_reason != "length":
        verdict.lost.append(
            f"{name}: {answer.num_tokens} of {ask.max_tokens} tokens, ended by {answer.finish_reason!r}"
        )
    elif text is not None and answer.text != text:
        verdict.lost.append(f"{name}: ended after {len(answer.text)} of {len(text)} characters")


def is_meant(answer: Answer) -> bool:
    """An end before the last token that its caller asked for: cancelled, or a short deadline that passed in time."""
    if answer.is_cancelled:
        return answer.error in ("cancelled", "") or answer.finish_reason == "cancelled"
    is_tight = 0 < answer.ask.timeout_s <= TIGHT_S
    in_time = answer.ended - answer.begun <= answer.ask.timeout_s + LATE_S
    return is_tight and in_time and answer.error.removeprefix("504 ").startswith("timeout")


def judge_numbers(verdict: Verdict, name: str, numbers: Sequence[int]) -> None:
    for expected, number in enumerate(numbers, 1):
        if number != expected:
            kind = verdict.lost if number > expected else verdict.doubled
            kind.append(f"{name}: frame {number} where {expected} was due")
            return


def judge_redis(verdict: Verdict, answers: Sequence[Answer], redis: "Redis", models: Sequence[str]) -> None:
    """Logs without gaps, each job ended once, RQ's registries right, in each model's queue."""
    for model in models:
        report = Report()
        check_redis(report, redis, model, {a.job_id for a in answers if a.job_id and a.ask.model == model})
        verdict.lost += report.lost
        verdict.doubled += report.duplicated
        verdict.wrong += report.wrong
