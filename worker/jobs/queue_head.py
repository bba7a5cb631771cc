"""Whether the head of the queue can be claimed, and which jobs make room for it: asked only when it may matter."""

import time
from collections.abc import Collection
from functools import partial
from typing import Final

from common.wire import Tier
from worker.engine.interface import AnyEngine
from worker.jobs.ledger import Ledger, Waiter
from worker.jobs.room import Held, make_room

FLEX: Final[Tier] = "flex"
IDLE_S = 1.0  # between checks of the queue without a wake-up
CONTESTED_S = 0.02  # between checks of a full worker while several owners have jobs


class QueueHead:
    """The worker's view of the queue's head."""

    def __init__(self, ledger: Ledger, engine: AnyEngine) -> None:
        self._ledger = ledger
        self._engine = engine
        self._check_room_at = 0.0  # time of the next making_room()
        self._check_head_at = 0.0  # time of the next check of a head that did not fit

    def queue_moved(self) -> None:
        self._check_room_at = self._check_head_at = 0.0

    def place_freed(self) -> None:
        self._check_head_at = 0.0

    def fitting(self, *, has_suspects: bool) -> str | None:
        """The job to claim, or "" for whatever is the head; None if its first choice would not start at once.

        making_room() cannot help a job that was claimed too early and waits in the engine.
        """
        if has_suspects or self._engine.has_ample_room(is_flex=True):
            return ""
        if time.monotonic() < self._check_head_at:
            return None
        waiter = self._ledger.waiter()
        if waiter is None:
            return ""
        head = waiter.head
        is_flex = head.tier == FLEX
        if self._engine.has_room(head.num_prompt_tokens, 1, head.max_tokens, is_flex=is_flex):
            self._check_head_at = 0.0
            return head.id
        self._check_head_at = time.monotonic() + pause(waiter)
        return None

    def making_room(self, held: Collection[Held], *, has_suspects: bool) -> tuple[str, list[str]] | None:
        """The head, which has no place, and the jobs to give back for it; None if it has to wait."""
        now = time.monotonic()
        if now < self._check_room_at:
            return None
        self._check_room_at = now + IDLE_S  # or when the queue moves
        has_flex = any(job.tier == FLEX for job in held)
        if has_suspects or self._engine.has_ample_room(is_flex=has_flex):
            return None
        waiter = self._ledger.waiter()
        if waiter is None:
            return None
        head = waiter.head
        self._check_room_at = time.monotonic() + pause(waiter)
        is_flex = head.tier == FLEX
        fits = partial(self._engine.has_room, head.num_prompt_tokens, head.places, head.max_tokens, is_flex=is_flex)
        given = make_room(head, waiter.shares, list(held), fits)
        if not given:
            return None
        self._check_room_at = 0.0  # there may be another
        return head.id, given


def pause(waiter: Waiter) -> float:
    return CONTESTED_S if waiter.num_owners > 1 else IDLE_S
