"""Bodies in transit are bounded, and one key cannot keep the others out."""

import pytest

from api.gate.body_room import BodyRoom
from common.errors import Overloaded


def fill(room: BodyRoom, owner: str, num_bytes: int = 8) -> list[object]:
    """Hold as many bodies as this key may send at once."""
    open_bodies: list[object] = []
    while True:
        body = room.held(owner, num_bytes)
        try:
            body.__enter__()
        except Overloaded:
            return open_bodies
        open_bodies.append(body)


def test_each_key_leaves_room_for_the_next() -> None:
    room = BodyRoom(8 * 100)
    taken = [fill(room, owner) for owner in ("first", "second", "third")]
    assert [len(bodies) for bodies in taken] == [75, 18, 5]


def test_room_comes_back_also_after_an_error() -> None:
    room = BodyRoom(16)
    for _ in range(5):
        with pytest.raises(ValueError, match="x"), room.held("me", 8):
            raise ValueError("x")
    with room.held("me", 8), pytest.raises(Overloaded, match="one after the other"), room.held("me", 8):
        pass


def test_a_refusal_names_its_limit_and_the_bytes_on_their_way() -> None:
    room = BodyRoom(16)
    with (
        room.held("me", 8),
        pytest.raises(Overloaded, match="16 bytes would be on their way, of 0 that may be") as refused,
    ):
        room.held("me", 8).__enter__()
    assert refused.value.param == "max_body_bytes_at_once"


def test_a_body_without_a_length_reserves_room_as_it_arrives() -> None:
    room = BodyRoom(16)
    with room.held("me") as take, room.held("me"):
        take(8)
        with pytest.raises(Overloaded):
            take(8)
        with room.held("you", 4):
            pass
    assert len(fill(room, "me", 4)) == 3


def test_a_small_body_is_accepted_while_large_ones_arrive() -> None:
    room = BodyRoom(1000)
    taken = fill(room, "me", 100)
    assert len(taken) == 7
    with room.held("you", 100):
        pass
