"""Whether jobs of a full worker make room for another owner's, and which."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

MAX_MADE_ROOM = 32  # times that one job is given back: each time its tokens may have to be computed again


@dataclass(frozen=True, slots=True)
class Head:
    """The job whose turn it is."""

    id: str
    owner: str
    priority: int  # the lower, the earlier
    num_prompt_tokens: int
    max_tokens: int
    places: int = 1  # sequences


@dataclass(frozen=True, slots=True)
class Share:
    """What an owner holds, in all workers of the queue."""

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
    """The jobs to give back, so that the head fits; empty when it has to wait. `held`: the latest claimed last.

    An owner gives up a place only while, with as much less, it still holds as many for its weight as the head's owner
    will. So each change brings the shares nearer to each other, and a series of them ends. Nobody gives way to a job of
    a class behind its own. `fits`: whether the head would, without these.
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
        victim = yielding[ranks.index(max(ranks))]  # of the owner with most: the least disturbed, then the youngest
        movable.remove(victim)
        given.append(victim.id)
        share = left[victim.owner]
        left[victim.owner] = Share(share.places - victim.places, share.weight)
    for job_id in given[:-1]:  # a larger one that came later may have made an earlier one needless
        if fits(rest := [other for other in given if other != job_id]):
            given = rest
    return given


def may_give_way(job: Held, head: Head) -> bool:
    return job.owner != head.owner and job.priority >= head.priority and job.num_made_room < MAX_MADE_ROOM
