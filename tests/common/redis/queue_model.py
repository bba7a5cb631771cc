"""The queue's rules in plain Python: what the scripts are compared with, and what drives both."""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from redis import Redis

from api.jobs.generation import rq_job
from common.redis import keys
from common.redis.key_store import KeyLimits, KeyStore
from common.redis.rq_seams import now_iso
from common.redis.script import Scripts
from common.redis.store import Store
from common.redis.submission import Submission
from common.wire import GenerationRequest, SamplingParams, Tier
from worker.jobs.ledger import Ledger

QUEUE = "model:tiers"
ROW = '{"i":0,"t":[1],"x":"a"}'


@dataclass(eq=False)
class Job:
    id: str
    owner: str
    tier: Tier
    class_: float  # less while an interrupted job waits
    ticket: int
    num_prompt: int
    state: str = "queued"
    is_new: bool = True  # never claimed
    num_rows: int = 0


@dataclass
class Shares:
    """One tier's."""

    served: dict[str, float] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    left: dict[str, float] = field(default_factory=dict)  # levels of owners without jobs
    now: float = 0

    def enter(self, owner: str) -> None:
        if owner not in self.served:
            least = min((self.served[other] for other, held in self.places.items() if held), default=0.0)
            self.served[owner] = max(least, self.now, self.left.pop(owner, 0))


class Model:
    """The next job is that of the lowest class; of equals, its owner was served least; of these, it is the oldest."""

    def __init__(self, weights: dict[str, float]) -> None:
        self.weights = weights
        self.jobs: list[Job] = []
        self.shares: dict[Tier, Shares] = {tier: Shares() for tier in keys.BASES}

    def waiting(self) -> list[Job]:
        return [job for job in self.jobs if job.state == "queued"]

    def running(self) -> list[Job]:
        return [job for job in self.jobs if job.state == "running"]

    def submit(self, job: Job) -> None:
        if not self.shares[job.tier].served:
            self.shares[job.tier] = Shares()
        self.shares[job.tier].enter(job.owner)
        self.jobs.append(job)

    def next(self) -> Job | None:
        """Each owner's first job of each tier is compared by its class, what its owner was served, and its age."""
        firsts: dict[tuple[str, str], Job] = {}
        for job in sorted(self.waiting(), key=lambda job: (job.class_, job.ticket)):
            firsts.setdefault((job.tier, job.owner), job)
        return min(firsts.values(), key=self._rank, default=None)

    def _rank(self, job: Job) -> tuple[float, float, int]:
        shares = self.shares[job.tier]
        level = shares.served[job.owner] + min(0.9, shares.places[job.owner] * 0.005)
        return job.class_, round(level, 3), job.ticket

    def claim(self, job: Job) -> None:
        shares = self.shares[job.tier]
        job.class_ = -(-job.class_ // 1)  # it is not ahead of its class any more
        if job.class_ == keys.BASES[job.tier]:
            shares.now = max(shares.now, shares.served[job.owner])
        shares.places[job.owner] += 1
        job.state = "running"
        if job.is_new:
            shares.served[job.owner] += job.num_prompt / self.weights[job.owner]
            job.is_new = False

    def append(self, job: Job, num_tokens: int) -> None:
        job.num_rows += 1
        self.shares[job.tier].served[job.owner] += num_tokens / self.weights[job.owner]

    def requeue(self, job: Job, ahead: float) -> None:
        self.shares[job.tier].places[job.owner] -= 1
        job.class_ -= ahead
        job.state = "queued"

    def end(self, job: Job) -> None:
        shares = self.shares[job.tier]
        if job.state == "running":
            shares.places[job.owner] -= 1
        job.state = "ended"
        if all(other.state == "ended" for other in self.jobs if (other.owner, other.tier) == (job.owner, job.tier)):
            shares.left[job.owner] = shares.served.pop(job.owner)


class Twin:
    """Does everything twice: by the scripts, and in the model. `weights` are those of the owners "a", "b", ..."""

    def __init__(self, redis: "Redis", weights: dict[str, float]) -> None:
        self.redis = redis
        self.store = Store(redis, max_queue=100_000)
        self.scripts = Scripts(redis)
        self.ledger = Ledger(redis, QUEUE, "w")
        self.ledger.register()
        self.model = Model(weights)
        self.numbers = count()
        for owner, weight in weights.items():
            redis.hset(keys.KEY + owner, mapping={"weight": weight, "priority": 2})

    def submit(self, owner: str, tier: Tier = "default", priority: int = 0, num_prompt: int = 1, **more: Any) -> Job:
        job_id = f"{owner}-{tier}-{next(self.numbers)}"
        request = GenerationRequest(job_id, QUEUE, (1,) * num_prompt, SamplingParams(max_tokens=100, seed=1))
        fields: dict[str, Any] = {"priority": priority, "tier": tier, **more}
        submission = Submission(request, QUEUE, owner, "r", {}, background=True, **fields)
        self.store.submit(submission, rq_job(self.redis, job_id, QUEUE))
        job = Job(job_id, owner, tier, submission.base + priority, next(self.numbers), num_prompt)
        self.model.submit(job)
        return job

    def claim(self) -> Job | None:
        """Claims by the script; the caller compares it with model.next() beforehand."""
        claim = self.ledger.claim(0)
        return None if claim is None else self._claimed(claim.request.id)

    def append(self, job: Job, num_tokens: int, end: str = "") -> None:
        row, ending = job.num_rows + 1, ("finished", "") if end else ("", "")
        refused = self.scripts.run("append", self.ledger.fence, now_iso(), job.id, row, ROW, num_tokens, *ending, 0, 0)
        assert refused == []
        self.model.append(job, num_tokens)
        if end:
            self.model.end(job)

    def give_back(self, job: Job) -> None:
        self.ledger.give_back(job.id)
        self.model.requeue(job, ahead=0.5)

    def make_room(self, job: Job) -> Job | None:
        """The head is claimed in the place of this job."""
        head = self.model.next()
        if head is None:
            return None
        claim = self.ledger.claim(0, head.id, [job.id])
        assert claim is not None and claim.request.id == head.id
        self.model.requeue(job, ahead=0)
        return self._claimed(head.id)

    def cancel(self, job: Job) -> None:
        """A job that waits."""
        assert self.store.cancel(job.id) == "queued"
        self.model.end(job)

    def restart(self) -> None:
        """The worker leaves, and its successor finds its jobs in front of the others of their class."""
        self.ledger.release()
        for job in self.model.running():
            self.model.requeue(job, ahead=0.5)
        self.ledger.register()

    def _claimed(self, job_id: str) -> Job:
        [job] = [job for job in self.model.jobs if job.id == job_id]
        self.model.claim(job)
        return job


def add_key(redis: "Redis", name: str, **limits: Any) -> str:
    return keys.owner_of(KeyStore(redis).add(name, KeyLimits(**limits)))
