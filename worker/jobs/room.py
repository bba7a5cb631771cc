"""The jobs of a full worker that make room for another owner's job."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

MAX_MADE_ROOM = 32  # times that one job is given back: each time its tokens may be computed again


@dataclass(frozen=True, slots=True)
class Head:
    """The job at the head of the queue."""

    id: str
    owner: str
    priority: int  # the lower, the earlier
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
    priority: int
    places: int = 1
    num_made_room: int = 0


def make_room(
    head: Head, shares: Mapping[str, Share], held: Sequence[Held], fits: Callable[[Sequence[str]], bool]
) -> list[str]:
    """The jobs to give back so that the head fits; empty when it has to wait. `held`: the latest claimed last.

    An owner gives up places only if it then still holds as many for its weight as the head's owner will. So each change
    brings the shares nearer to each other, and a series of changes ends. No job gives way to one of a later class.
    `fits`: whether the head fits without these jobs.
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
    for job_id in given[:-1]:  # a larger job added later may have made an earlier one unnecessary
        if fits(rest := [other for other in given if other != job_id]):
            given = rest
    return given


def may_give_way(job: Held, head: Head) -> bool:
    return job.owner != head.owner and job.priority >= head.priority and job.num_made_room < MAX_MADE_ROOM
