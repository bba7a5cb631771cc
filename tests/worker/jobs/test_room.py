"""Jobs that make room for another owner: never in circles, never for an owner with its full share."""

from hypothesis import given, settings
from hypothesis import strategies as st

from worker.jobs.room import MAX_MADE_ROOM, Head, Held, Share, make_room

OWNERS = "abcd"


def held_by(owners: str, **fields: int) -> list[Held]:
    return [Held(f"{owner}{number}", owner, fields.get("class_", 0)) for number, owner in enumerate(owners)]


def shares_of(held: list[Held], head: Head, weights: dict[str, float] | None = None) -> dict[str, Share]:
    return {
        owner: Share(sum(job.places for job in held if job.owner == owner), (weights or {}).get(owner, 1.0))
        for owner in {head.owner, *(job.owner for job in held)}
    }


def one_place(capacity: int, held: list[Held], head: Head):  # type: ignore[no-untyped-def]
    places = {job.id: job.places for job in held}
    return lambda given: sum(places.values()) - sum(places[job_id] for job_id in given) + head.places <= capacity


def decide(held: list[Held], head: Head, weights: dict[str, float] | None = None) -> list[str]:
    capacity = sum(job.places for job in held)
    return make_room(head, shares_of(held, head, weights), held, one_place(capacity, held, head))


def test_the_youngest_of_the_owner_with_most_gives_way() -> None:
    assert decide(held_by("aaaab"), Head("h", "c", "default", 0, 1, 1)) == ["a3"]


def test_one_that_gave_way_is_not_the_next_again() -> None:
    held = held_by("aaaa")
    held[3] = Held("a3", "a", 0, num_made_room=1)
    assert decide(held, Head("h", "b", "default", 0, 1, 1)) == ["a2"]
    tired = [Held(job.id, "a", 0, num_made_room=MAX_MADE_ROOM) for job in held]
    assert decide(tired, Head("h", "b", "default", 0, 1, 1)) == []


def test_no_job_gives_way_to_a_head_that_would_not_fit_anyway() -> None:
    head = Head("h", "b", "default", 0, 10**6, 1)
    held = held_by("aaaa")
    assert make_room(head, shares_of(held, head), held, lambda given: False) == []


def test_no_job_gives_way_to_a_class_behind_its_own() -> None:
    assert decide(held_by("aaaa", class_=-1), Head("h", "b", "default", 0, 1, 1)) == []
    assert decide(held_by("aaaa", class_=3), Head("h", "b", "default", 0, 1, 1)) == ["a3"]


def test_a_heavier_owner_keeps_more() -> None:
    head = Head("h", "b", "default", 0, 1, 1)
    assert decide(held_by("aaab"), head, {"a": 3.0}) == []
    assert decide(held_by("aaaaab"), head, {"a": 3.0}) == []
    assert decide(held_by("aaaaaaab"), head, {"a": 3.0}) == ["a6"]


def test_several_give_way_to_a_request_of_several_choices() -> None:
    assert decide(held_by("aaaaaaaa"), Head("h", "b", "default", 0, 1, 1, places=3)) == ["a7", "a6", "a5"]
    assert decide(held_by("aaaaaaaa"), Head("h", "b", "default", 0, 1, 1, places=5)) == []


@st.composite
def crowds(draw: st.DrawFn) -> tuple[list[Held], dict[str, float]]:
    owners = draw(st.text(OWNERS, min_size=1, max_size=16))
    held = [
        Held(f"{owner}{at}", owner, draw(st.integers(-1, 1)), draw(st.integers(1, 3)), draw(st.integers(0, 3)))
        for at, owner in enumerate(owners)
    ]
    return held, {owner: draw(st.sampled_from([0.5, 1.0, 2.0, 3.0])) for owner in OWNERS}


@settings(max_examples=300)
@given(crowds(), st.sampled_from(OWNERS), st.integers(-1, 1), st.integers(1, 4))
def test_after_a_change_no_giver_holds_less_than_the_receiver(
    crowd: tuple[list[Held], dict[str, float]], owner: str, class_: int, places: int
) -> None:
    held, weights = crowd
    head = Head("h", owner, "default", class_, 1, 1, places)
    given_back = decide(held, head, weights)
    gone = [job for job in held if job.id in given_back]
    assert len(set(given_back)) == len(given_back) == len(gone)
    assert all(job.owner != owner and job.class_ >= class_ for job in gone)
    before = shares_of(held, head, weights)
    for other in {job.owner for job in gone}:
        lost = sum(job.places for job in gone if job.owner == other)
        assert before[other].level(-lost) >= before[owner].level(places)
    if given_back:
        freed = sum(job.places for job in gone)
        assert freed >= places  # the worker was full
        assert all(freed - job.places < places for job in gone)  # and no more than needed


@settings(max_examples=200)
@given(st.integers(1, 24), st.lists(st.sampled_from(OWNERS), min_size=1, max_size=60))
def test_changes_end_even_if_every_owner_wants_every_place(capacity: int, wishes: list[str]) -> None:
    """In any order of requests, changes of places end."""
    held = held_by("a" * capacity)
    num_changes = 0
    for number, owner in enumerate(wishes * 20):
        head = Head(f"n{number}", owner, "default", 0, 1, 1)
        given_back = decide(held, head)
        if given_back:
            num_changes += 1
            held = [job for job in held if job.id not in given_back] + [Held(head.id, owner, 0)]
    levels = [share.places for share in shares_of(held, Head("h", "a", "default", 0, 1, 1)).values()]
    assert num_changes <= capacity
    asked = {"a", *wishes}
    if capacity >= len(asked):
        assert max(levels) - min(levels) <= 1 and len(levels) == len(asked)
