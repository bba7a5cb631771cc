"""The worker's side of the queue: its fence and lease, claims, and reclaiming the jobs of dead workers."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, cast

from redis import Redis

from common.redis import keys
from common.redis.job_log import JobLog
from common.redis.rq_seams import now_iso
from common.redis.script import Reply, Scripts, flat, pairs
from common.wire import Delta, GenerationRequest, LoggedChoice, ModelCard, Tier
from common.wire_codec import decode_request, encode_card
from worker.jobs.room import Head, Held, Share

logger = logging.getLogger("omni.worker")


class Fenced(Exception):
    """Another process has taken over this worker's jobs: it must write nothing more and exit."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One job that this worker holds: the request, and the choices that its log already has."""

    request: GenerationRequest
    logged: dict[int, LoggedChoice]
    num_entries: int
    is_suspect: bool
    revision: str
    owner: str = ""
    tier: Tier = "default"
    class_: int = 0  # the lower, the earlier
    num_made_room: int = 0  # times that it was given back for another owner
    expected_tokens: int = 0  # of its answer, all choices; 0: not known

    @property
    def held(self) -> Held:
        num_places = self.request.sampling.n
        return Held(self.request.id, self.owner, self.class_, num_places, self.num_made_room, self.tier)


@dataclass(frozen=True, slots=True)
class Waiter:
    """The head of the queue, the shares of its owner and of all that hold places, and the number of owners."""

    head: Head
    shares: dict[str, Share]
    num_owners: int


class Ledger:
    """Fence, lease, claims. Every method is one script; all raise redis.exceptions.RedisError."""

    def __init__(self, redis: "Redis", queue: str, worker_name: str) -> None:
        self.redis = redis
        self.queue = queue
        self.worker_name = worker_name
        self.fence = 0
        self._claim_number = 1
        self._scripts = Scripts(redis)
        self._log = JobLog(redis)

    def register(self) -> int:
        """Take a fence above all others."""
        self.fence = int(self._scripts.run("register", self.queue))
        return self.fence

    def publish_card(self, card: ModelCard) -> None:
        """Publish what the API must know to encode prompts for this model."""
        version = sha256(encode_card(replace(card, created=0))).hexdigest()  # the same after each start
        self._scripts.run("card", self.queue, encode_card(card), version, *card.names)

    def report_loading(self, what: str, share: float) -> None:
        """Publish the progress of loading (0 to 1), for /health and for the 503 of early requests."""
        key = keys.LOADING + self.queue
        self.redis.hset(key, mapping={"what": what, "share": round(share, 3)})
        self.redis.expire(key, 3600)

    def renew(self, fields: Mapping[str, Any]) -> dict[str, str]:
        """Renew the lease; returns running jobs to cancel, id -> reason (JSON of a Failed).

        Raises Fenced when another worker has taken over the jobs.
        """
        cancelled = self._scripts.run("renew", self.fence, now_iso(), *flat(fields))
        if cancelled is None:
            raise Fenced(f"fence {self.fence} was taken away")
        return {job_id.decode(): reason.decode() for job_id, reason in pairs(cancelled)}

    def claim(self, num_suspects: int, expected: str = "", instead_of: Sequence[str] = ()) -> Claim | None:
        """Claim the head of the queue; None when the queue is empty or on hold. Raises Fenced.

        `expected` is the only job to claim: None when another is the head by now. In the same step our own jobs
        `instead_of` go back into the queue. Claims are numbered: after a lost answer the same job is claimed again.
        """
        while True:
            args = (self.fence, self.queue, self.worker_name, now_iso(), num_suspects, self._claim_number)
            reply = self._ask("claim", *args, expected, *instead_of)
            if reply.outcome == "job":
                claim = self._claimed(reply)
                self._claim_number += 1
                return claim
            if reply.outcome != "again":
                return None

    def waiter(self) -> Waiter | None:
        """The head of the queue, while all places are taken; None when the queue is empty. Raises Fenced."""
        reply = self._ask("waiter", self.fence, self.queue)
        if reply.outcome != "head":
            return None
        numbers = (reply.number(name) for name in ("class", "num_prompt", "max_tokens", "places"))
        head = Head(reply.text("id"), reply.text("owner"), cast(Tier, reply.text("tier")), *numbers)
        shares = {owner.decode(): Share(int(places), float(weight)) for owner, places, weight in reply.values["shares"]}
        return Waiter(head, shares, reply.number("num_owners"))

    def reclaim(self, only: int = 0) -> int:
        """Put the jobs of workers with an expired lease (one, or all) back into the queue; returns their number."""
        return int(self._scripts.run("reclaim", self.queue, now_iso(), "", only or ""))

    def release(self) -> int:
        """Put all our jobs back into the queue, before others of their class and without blame; ends the fence."""
        return int(self._scripts.run("reclaim", self.queue, now_iso(), self.fence, ""))

    def give_back(self, job_id: str) -> None:
        """Put one of our jobs back into the queue without blame, to be continued from its log."""
        self._scripts.run("give_back", self.fence, self.queue, job_id)

    def expire(self) -> None:
        """End the jobs that are past their deadline or have lost their reader."""
        self._scripts.expire(self.queue)

    def _ask(self, name: str, *args: Any) -> Reply:
        reply = self._scripts.ask(name, *args)
        if reply.outcome == "fenced":
            raise Fenced(f"fence {self.fence} was taken away")
        return reply

    def _claimed(self, reply: Reply) -> Claim:
        logged, num_entries = self._logged(reply.text("id")) if reply.number("num_entries") else ({}, 0)
        return Claim(
            decode_request(reply.values["request"]),
            logged,
            num_entries,
            reply.text("suspect") == "1",
            reply.text("revision"),
            reply.text("owner"),
            cast(Tier, reply.text("tier")),
            reply.number("class"),
            reply.number("made_room"),
            reply.number("expected"),
        )

    def _logged(self, job_id: str) -> tuple[dict[int, LoggedChoice], int]:
        choices: dict[int, LoggedChoice] = {}
        last = 0
        while entries := self._log.entries(job_id, after=last):
            for entry in entries:
                if isinstance(event := entry.event, Delta):
                    before = choices.get(event.index, LoggedChoice())
                    choices[event.index] = LoggedChoice(
                        before.token_ids + event.token_ids, before.text + event.text, event.finish_reason
                    )
            last = entries[-1].seq
        return choices, last


def bury(redis: "Redis", fence: int, *, is_blamed: bool = True) -> int:
    """Put the jobs of a process known to be dead back into its queue, without waiting for its lease.

    They count as suspects, unless another model's jobs are to blame for the death.
    """
    queue = redis.hget(keys.FENCES, fence)
    if queue is None:
        return 0  # another worker has done so
    ledger = Ledger(redis, queue.decode(), "")
    if not is_blamed:
        ledger.fence = fence
        return ledger.release()
    redis.delete(keys.worker_key(fence))
    return ledger.reclaim(fence)
