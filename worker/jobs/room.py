"""The jobs of a full worker that make room for a job of an earlier tier, or of another owner."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from common.wire import TIERS, Tier

MAX_MADE_ROOM = 32  # times that one job is given back in its own tier: each time its tokens may be computed again


@dataclass(frozen=True, slots=True)
class Head:
    """The job at the head of the queue."""

    id: str
    owner: str
    tier: Tier
    class_: int  # the lower, the earlier
    num_prompt_tokens: int
    max_tokens: int
    places: int = 1  # sequences


@dataclass(frozen=True, slots=True)
class Share:
    """The places of an owner in all workers of the queue, and its weight."""

    places: int
    weight: float = 1.0

    def level(self, more: int = 0) -> float:
        return (self.places + more) / self.weight


@dataclass(frozen=True, slots=True)
class Held:
    """A job that this worker runs."""

    id: str
    owner: str
    class_: int
    places: int = 1
    num_made_room: int = 0
    tier: Tier = "default"


def make_room(
    head: Head, shares: Mapping[str, Share], held: Sequence[Held], fits: Callable[[Sequence[str]], bool]
) -> list[str]:
    """The jobs to give back so that the head fits; empty when it has to wait. `held`: the latest claimed last.

    Jobs of a later tier give way first, whoever's they are and as often as it takes: the last tier first, and of one
    tier the latest claimed. Only if all of them are not enough, other owners of the head's own tier do.
    `shares`: of the head's tier. `fits`: whether the head fits without these jobs.
    """
    later = [job for job in reversed(held) if TIERS.index(job.tier) > TIERS.index(head.tier)]
    later.sort(key=lambda job: -TIERS.index(job.tier))
    given: list[str] = []
    while not fits(given) and len(given) < len(later):
        given.append(later[len(given)].id)
    if not fits(given):
        peers = [job for job in held if job.tier == head.tier]
        more = share_room(head, shares, peers, lambda jobs: fits([*given, *jobs]))
        given = [*given, *more] if more else []
    return needed(given, fits)


def share_room(
    head: Head, shares: Mapping[str, Share], held: Sequence[Held], fits: Callable[[Sequence[str]], bool]
) -> list[str]:
    """The jobs of the head's own tier to give back.

    An owner gives up places only if it then still holds as many for its weight as the head's owner will. So each change
    brings the shares nearer to each other, and a series of changes ends. No job gives way to one of a later class.
    """
    after = shares[head.owner].level(head.places)
    movable = [job for job in held if may_give_way(job, head) and job.owner in shares]
    given: list[str] = []
    left = dict(shares)
    if not movable or not fits([job.id for job in movable]):
        return []
    while not fits(given):
        yielding = [job for job in movable if left[job.owner].level(-job.places) >= after]
        if not yielding:
            return []
        ranks = [(left[job.owner].level(), -job.num_made_room, age) for age, job in enumerate(yielding)]
        victim = yielding[ranks.index(max(ranks))]  # of the owner with the most: least often given back, then youngest
        movable.remove(victim)
        given.append(victim.id)
        share = left[victim.owner]
        left[victim.owner] = Share(share.places - victim.places, share.weight)
    return given


def needed(given: list[str], fits: Callable[[Sequence[str]], bool]) -> list[str]:
    """Without the jobs that a larger one after them has made unnecessary."""
    for job_id in given[:-1]:
        if fits(rest := [other for other in given if other != job_id]):
            given = rest
    return given


def may_give_way(job: Held, head: Head) -> bool:
    return job.owner != head.owner and job.class_ >= head.class_ and job.num_made_room < MAX_MADE_ROOM
