"""Checks histories, and the content of Redis after the run, in the manner of Jepsen. No verdicts mean a pass."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby

import orjson
from redis import Redis
from rq.job import Job
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from tests.chaos.client import History
from tests.chaos.fake_worker import expected_text
from tests.chaos.pulse import Pulse
from tests.chaos.stalls import LONG_S, Stalls, share

ENDED = ("finished", "failed", "cancelled")
RQ_STATUS = {"finished": "finished", "failed": "failed", "cancelled": "canceled"}
Expect = Callable[[History], str]


@dataclass
class Report:
    """Counts and verdicts of one or more runs."""

    faults: Counter[str] = field(default_factory=Counter)
    num_jobs: int = 0
    num_deltas: int = 0
    num_resumes: int = 0
    num_refused: int = 0
    num_made_room: int = 0  # times that a job was given back for another key's
    states: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)  # s between two deltas of one stream
    stalls: Stalls = field(default_factory=Stalls)  # the long ones among them
    worst: list[tuple[float, float, str]] = field(default_factory=list)  # s, when it ended, whose
    causes: list[str] = field(default_factory=list)  # of the worst
    first: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.duplicated or self.wrong)

    @property
    def verdicts(self) -> list[str]:
        return [*self.lost, *self.duplicated, *self.wrong]

    def percentile(self, of: float) -> float:
        return share(self.gaps, of)

    def add(self, other: "Report") -> None:
        """Add the figures of another run."""
        self.faults += other.faults
        self.states += other.states
        for name in ("num_jobs", "num_deltas", "num_resumes", "num_refused", "num_made_room", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("lost", "duplicated", "wrong", "gaps", "causes"):
            getattr(self, name).extend(getattr(other, name))
        self.stalls.add(other.stalls)
        self.causes = sorted(self.causes, key=lambda cause: -float(cause.split()[0]))[:8]

    def __str__(self) -> str:
        long = [gap for gap in self.gaps if gap >= LONG_S]
        lines = [
            f"faults      {self.faults.total()}: " + ", ".join(f"{n} {c}" for n, c in sorted(self.faults.items())),
            f"jobs        {self.num_jobs}: " + ", ".join(f"{c} {n}" for n, c in sorted(self.states.items())),
            f"deltas      {self.num_deltas} in {self.seconds:.0f} s; {self.num_resumes} resumes, "
            f"{self.num_refused} requests refused and repeated, "
            f"{self.num_made_room} times a job made room",
            f"verdicts    {len(self.lost)} lost, {len(self.duplicated)} duplicated, {len(self.wrong)} wrong",
            f"gaps        between two deltas of a stream: p50 {self.percentile(0.5):.3f} s, "
            f"p99 {self.percentile(0.99):.3f} s, max {max(self.gaps, default=0):.2f} s",
            f"stalls      gaps of {LONG_S} s and more: {len(long)}; p50 {share(long, 0.5):.2f} s, "
            f"p99 {share(long, 0.99):.2f} s",
            *self.stalls.lines(),
        ]
        lines += [f"  {cause}" for cause in self.causes]
        return "\n".join([*lines, *(f"  ! {verdict}" for verdict in self.verdicts[:40])])


def told(history: History) -> str:
    return expected_text(history.seed, history.num_tokens)


def check(histories: Sequence[History], redis: "Redis", queue: str, expect: Expect = told) -> Report:
    report = Report(num_jobs=len(histories))
    for history in histories:
        report.num_resumes += history.num_resumes
        report.num_refused += history.num_refused
        check_history(report, history, expect(history))
    by_seed: dict[int, set[str]] = {}
    for history in histories:
        if history.id:
            by_seed.setdefault(history.seed, set()).add(history.id)
    report.duplicated += [f"seed {seed} became {len(ids)} jobs" for seed, ids in by_seed.items() if len(ids) > 1]
    check_redis(report, redis, queue, {history.id for history in histories if history.id})
    return report


def check_history(report: Report, history: History, text: str) -> None:
    """A client's history: each frame once and in order, the expected text, one end, the right usage."""
    name = f"{history.kind} {history.seed:x} ({history.id})"
    report.wrong += [f"{name}: {complaint}" for complaint in history.complaints]
    if history.body is not None:
        check_body(report, name, history, text)
    texts = [frame for frame in history.frames if frame.text]
    report.num_deltas += len(texts)
    gaps = [(after.at - before.at, after.at) for before, after in zip(texts, texts[1:], strict=False)]
    report.gaps += [gap for gap, _ in gaps]
    for gap, ended in gaps:
        report.stalls.note(gap, ended)
    report.worst = sorted([*report.worst, *((gap, at, history.id) for gap, at in gaps)], reverse=True)[:200]
    expected = 1
    for frame in history.frames:
        if frame.number > expected:
            report.lost.append(f"{name}: frame {expected} to {frame.number - 1} did not come")
        elif frame.number < expected:
            report.duplicated.append(f"{name}: frame {frame.number} came again")
        expected = frame.number + 1
    if not text.startswith(history.text):
        report.wrong.append(f"{name}: the text differs: {difference(history.text, text)}")
    ends = [frame for frame in history.frames if frame.finish_reason]
    if history.is_done and history.error is None:
        if history.text != text:
            report.lost.append(f"{name}: ended after {len(texts)} of {history.num_tokens} deltas")
        if len(ends) != 1:
            report.wrong.append(f"{name}: {len(ends)} finish reasons")
        if history.usage is None or history.usage["completion_tokens"] != history.num_tokens:
            report.wrong.append(f"{name}: usage {history.usage}, {history.num_tokens} tokens were asked for")
    elif history.error is not None and not (history.is_cancelled or history.is_left):
        report.lost.append(f"{name}: ended with {history.error}")


def check_body(report: Report, name: str, history: History, text: str) -> None:
    assert history.body is not None
    choice = history.body["choices"][0]
    if choice["message"]["content"] != text:
        report.wrong.append(f"{name}: the stored text differs: {difference(choice['message']['content'], text)}")
    if choice["finish_reason"] is None or history.body["usage"]["completion_tokens"] != history.num_tokens:
        report.wrong.append(f"{name}: end {choice['finish_reason']}, usage {history.body['usage']}")


def difference(seen: str, right: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(seen, right, strict=False)) if a != b), min(len(seen), len(right)))
    return f"at {at}: {seen[at : at + 20]!r} instead of {right[at : at + 20]!r}"


def check_redis(report: Report, redis: "Redis", queue: str, ids: Iterable[str]) -> None:
    """Every log has consecutive entries under rising fences, every job ended once, and RQ's records agree."""
    registries = {
        "finished": set(FinishedJobRegistry(queue, redis, serializer=JSONSerializer).get_job_ids(cleanup=False)),
        "failed": set(FailedJobRegistry(queue, redis, serializer=JSONSerializer).get_job_ids(cleanup=False)),
        "cancelled": set(CanceledJobRegistry(queue, redis, serializer=JSONSerializer).get_job_ids(cleanup=False)),
    }
    started = set(StartedJobRegistry(queue, redis, serializer=JSONSerializer).get_job_ids(cleanup=False))
    waiting = {job_id.decode() for job_id in redis.lrange(f"rq:queue:{queue}", 0, -1)}
    for job_id in sorted(ids):
        state = (redis.hget(f"omni:job:{job_id}", "state") or b"gone").decode()
        report.states[state] += 1
        if state not in ENDED:
            report.lost.append(f"{job_id} was accepted and is {state}")
            continue
        check_log(report, redis, job_id, state)
        rq_status = Job.fetch(job_id, redis, serializer=JSONSerializer).get_status(refresh=True)
        if rq_status != RQ_STATUS[state]:
            report.wrong.append(f"{job_id} is {state}, RQ says {rq_status}")
        if job_id not in registries[state] or job_id in started or job_id in waiting:
            report.wrong.append(f"{job_id} is {state}, but RQ's registries say otherwise")
    for key in redis.scan_iter("omni:running:*"):
        num_held = redis.zcard(key)  # none any more, if the worker ended its last job since the scan
        if num_held and redis.hget("omni:fences", key.rpartition(b":")[2]) in (queue.encode(), None):
            report.wrong.append(f"{key.decode()} still holds {num_held} jobs")


def check_log(report: Report, redis: "Redis", job_id: str, state: str) -> None:
    entries = redis.xrange(f"omni:log:{job_id}")
    numbers = [int(entry_id.split(b"-")[0]) for entry_id, _ in entries]
    if numbers != list(range(1, len(entries) + 1)):
        report.wrong.append(f"the log of {job_id} has the entries {numbers[:5]}...{numbers[-3:]}")
    events = [orjson.loads(fields[b"e"]) for _, fields in entries]
    ends = [at for at, event in enumerate(events) if "end" in event or "fail" in event]
    if ends != [len(events) - 1]:
        report.wrong.append(f"the log of {job_id} ({state}) has {len(ends)} ends in {len(events)} entries")
    fences = [int(fields[b"a"]) for _, fields in entries if fields[b"a"] != b"0"]
    holders = [fence for fence, _ in groupby(fences)]
    # the job may have moved to another worker and back
    num_returns = int(redis.hget(f"omni:job:{job_id}", "made_room") or 0)
    if len(holders) - len(set(holders)) > num_returns:
        report.wrong.append(f"the log of {job_id} has entries under a fence that had been replaced: {holders[:20]}")


def blame(report: Report, done: Sequence[tuple[float, float, str]], pulse: Pulse, most: int = 5) -> None:
    """The state of the service during each of the worst stalls, and the faults within or shortly before them."""
    report.stalls.set_against(done, pulse)
    moments: list[float] = []
    for gap, ended, job_id in report.worst:
        if len(moments) < most and all(abs(ended - moment) > 1.0 for moment in moments):
            moments.append(ended)
            near = [name for began, until, name in done if until > ended - gap - 1.0 and began < ended]
            at = datetime.fromtimestamp(time.time() - time.monotonic() + ended, UTC)
            was = ", ".join(f"{state} {seconds:.1f}" for state, seconds in pulse.within(ended - gap, ended))
            faults = ", ".join(near) or "no fault near"
            report.causes.append(f"{gap:.2f} s until {at:%H:%M:%S} ({job_id}): {was}; {faults}")
