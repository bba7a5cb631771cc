"""The worker's side of the line: a fence of its own, claims, and the reclaim of what dead workers held."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from common.redis import keys
from common.redis.job_log import JobLog
from common.redis.rq_seams import now_iso
from common.redis.script import Reply, Scripts, flat, pairs
from common.wire import Delta, GenerationRequest, LoggedChoice, ModelCard
from common.wire_codec import decode_request, encode_card
from worker.jobs.room import Head, Share

logger = logging.getLogger("omni.worker")


class Fenced(Exception):
    """Another process has taken this worker's jobs over: it must write nothing more and exit."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One job, ours until we die: the request and what its log already holds."""

    request: GenerationRequest
    logged: dict[int, LoggedChoice]
    num_entries: int
    is_suspect: bool
    revision: str
    owner: str = ""
    priority: int = 0
    num_made_room: int = 0  # how often it was given back for another owner


@dataclass(frozen=True, slots=True)
class Waiter:
    """The head of the line, the places of its owner and of all others that hold some, and how many owners there are."""

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
        """Tell the API what it must know to encode prompts for this model."""
        self._scripts.run("card", self.queue, encode_card(card), card.revision, *card.names)

    def report_loading(self, what: str, share: float) -> None:
        """Say how far loading is (0 to 1), for /health and for the 503 of those who come too early."""
        key = keys.LOADING + self.queue
        self.redis.hset(key, mapping={"what": what, "share": round(share, 3)})
        self.redis.expire(key, 3600)

    def renew(self, fields: Mapping[str, Any]) -> dict[str, str]:
        """Keep the lease; returns running jobs to cancel, id -> reason (JSON with code and message).

        Raises Fenced when another worker has taken the jobs over.
        """
        cancelled = self._scripts.run("renew", self.fence, now_iso(), *flat(fields))
        if cancelled is None:
            raise Fenced(f"fence {self.fence} was taken away")
        return {job_id.decode(): reason.decode() for job_id, reason in pairs(cancelled)}

    def claim(self, num_suspects: int, expected: str = "", instead_of: Sequence[str] = ()) -> Claim | None:
        """The head of the line, or None when the line is empty or held. Raises Fenced.

        `expected` is the only job to be taken, and None is the answer when another is the head by now; in the same step
        the jobs `instead_of`, which are ours, go back into the line.
        Claims are numbered: one whose answer was lost on the way is answered again with the same job.
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
        numbers = (reply.number(name) for name in ("priority", "num_prompt", "max_tokens", "places"))
        head = Head(reply.text("id"), reply.text("owner"), *numbers)
        shares = {owner.decode(): Share(int(places), float(weight)) for owner, places, weight in reply.values["shares"]}
        return Waiter(head, shares, reply.number("num_owners"))

    def reclaim(self, only: int = 0) -> int:
        """Put the jobs of workers whose lease has run out back into the line (of one, or of all); returns how many."""
        return int(self._scripts.run("reclaim", self.queue, now_iso(), "", only or ""))

    def bury(self, fence: int) -> int:
        """Put the jobs of a process known to be dead back into the line, without waiting for its lease."""
        self.redis.delete(keys.worker_key(fence))
        return self.reclaim(fence)

    def release(self) -> int:
        """Give all our own jobs back, to go on before others of their class begin, without blame; the fence ends."""
        return int(self._scripts.run("reclaim", self.queue, now_iso(), self.fence, ""))

    def give_back(self, job_id: str) -> None:
        """Put one of our jobs back into the line, without blame: it is to be continued from its log."""
        self._scripts.run("give_back", self.fence, self.queue, job_id)

    def expire(self) -> None:
        """End what is past its deadline or has lost its reader."""
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
            reply.number("priority"),
            reply.number("made_room"),
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
