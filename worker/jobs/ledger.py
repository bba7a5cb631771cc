"""The worker's side of the line: a fence of its own, claims, and the reclaim of what dead workers held."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from common.redis import keys
from common.redis.job_log import JobLog
from common.redis.rq_seams import now_iso
from common.redis.script import Scripts
from common.wire import Delta, GenerationRequest, LoggedChoice, ModelCard, decode_request, encode_card
from worker.jobs.room import Head, Share

logger = logging.getLogger("omni.worker")


class Fenced(Exception):
    """Another process has taken this worker's jobs over: it must write nothing more and exit."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One job, ours until we die: the request and what its log already holds."""

    request: GenerationRequest
    logged: dict[int, LoggedChoice]
    num_rows: int
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

    def register(self, predecessor: int = 0) -> int:
        """Take a fence above all others. `predecessor` is the fence of a process known to be dead."""
        self.fence = int(self._scripts.run("register", self.queue, keys.LEASE_MS, predecessor or ""))
        return self.fence

    def publish_card(self, card: ModelCard) -> None:
        """Tell the API what it must know to encode prompts for this model."""
        self._scripts.run("card", self.queue, encode_card(card), card.revision, *card.names)

    def report_loading(self, what: str, share: float) -> None:
        """Say how far loading is (0 to 1), for /health and for the 503 of those who come too early."""
        key = keys.loading_key(self.queue)
        self.redis.hset(key, mapping={"what": what, "share": round(share, 3)})
        self.redis.expire(key, 3600)

    def renew(self, fields: Mapping[str, Any]) -> dict[str, str]:
        """Keep the lease; returns running jobs to cancel, id -> reason (JSON with code and message).

        Raises Fenced when another worker has taken the jobs over.
        """
        pairs = [part for pair in fields.items() for part in pair]
        reply = self._scripts.run("renew", self.fence, keys.LEASE_MS, now_iso(), *pairs)
        if reply is None:
            raise Fenced(f"fence {self.fence} was taken away")
        return {reply[i].decode(): reply[i + 1].decode() for i in range(0, len(reply), 2)}

    def claim(self, num_suspects: int, expected: str = "", instead_of: Sequence[str] = ()) -> Claim | None:
        """The head of the line, or None when the line is empty or held. Raises Fenced.

        `expected` is the only job to be taken, and None is the answer when another is the head by now; in the same step
        the jobs `instead_of`, which are ours, go back into the line.
        Claims are numbered: one whose answer was lost on the way is answered again with the same job.
        """
        while True:
            args = (self.fence, self.queue, self.worker_name, now_iso(), num_suspects, self._claim_number)
            reply = self._scripts.run("claim", *args, expected, *instead_of)
            if reply[0] == b"fenced":
                raise Fenced(f"fence {self.fence} was taken away")
            if reply[0] == b"job":
                claim = self._claimed(*reply[1:])
                self._claim_number += 1
                return claim
            if reply[0] != b"again":
                return None

    def waiter(self) -> Waiter | None:
        """Who is next while all places are taken; None when nobody waits. Raises Fenced."""
        reply = [
            part.decode() if isinstance(part, bytes) else part
            for part in self._scripts.run("waiter", self.fence, self.queue)
        ]
        if reply == ["fenced"]:
            raise Fenced(f"fence {self.fence} was taken away")
        if not reply:
            return None
        job_id, owner, priority, num_prompt, max_tokens, places, num_owners, *shares = reply
        return Waiter(
            Head(job_id, owner, int(priority), int(num_prompt), int(max_tokens), int(places)),
            {shares[i]: Share(int(shares[i + 1]), float(shares[i + 2])) for i in range(0, len(shares), 3)},
            int(num_owners),
        )

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

    def _claimed(
        self, job_id: bytes, raw: bytes, suspect: bytes, revision: bytes, log_length: int, *rest: bytes
    ) -> Claim:
        owner, priority, num_made_room = rest
        logged, num_rows = self._logged(job_id.decode()) if log_length else ({}, 0)
        return Claim(
            decode_request(raw),
            logged,
            num_rows,
            suspect == b"1",
            revision.decode(),
            owner.decode(),
            int(priority),
            int(num_made_room),
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
