"""`truncation: "auto"`: whole turns are dropped from the front of a conversation until its prompt fits."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from api.responses.items import OUTPUTS
from api.schema.response_items import CallOutputItem, InputItem, LoadedToolsItem, MessageItem
from common.errors import ContextLengthExceeded

T = TypeVar("T")
Side = Literal["instructions", "user", "assistant", "result"]


def fitted(
    items: Sequence[InputItem], build: Callable[[Sequence[InputItem]], T], has_room: Callable[[T], bool]
) -> tuple[T, int]:
    """What `build` makes of the items, and how many were dropped: none if all fit, else the fewest that leave room.

    Raises ContextLengthExceeded when not even the items that are always kept fit.
    """
    try:
        return build(items), 0
    except ContextLengthExceeded:
        units = units_of(items)
        if not units:
            raise

    def is_enough(num_units: int) -> bool:
        try:
            return has_room(build(without(items, units[:num_units])))
        except ContextLengthExceeded:
            return False

    num_units = bisect_left(range(len(units)), True, lo=1, key=is_enough)
    return build(without(items, units[:num_units])), sum(map(len, units[:num_units]))


def without(items: Sequence[InputItem], units: Sequence[Sequence[int]]) -> list[InputItem]:
    dropped = {number for unit in units for number in unit}
    return [item for number, item in enumerate(items) if number not in dropped]


def units_of(items: Sequence[InputItem]) -> list[list[int]]:
    """Numbers of the items that are dropped together, in the order in which they are dropped.

    A unit is a user's message with what follows it or, after the last one, a round of calls; a call and its result are
    in one unit. Not listed, because never dropped: instructions, the last user's message, and the last round.
    """
    sides = [side_of(item) for item in items]
    ids = [call_id if isinstance(call_id := getattr(item, "call_id", None), str) else None for item in items]
    results = {ids[number]: number for number, side in enumerate(sides) if side == "result" and ids[number]}
    last_user = max((number for number, side in enumerate(sides) if side == "user"), default=-1)
    units: list[list[int]] = [[]]
    before: Side = "assistant"
    open_until = -1  # the last result of the calls so far
    for number, side in enumerate(sides):
        if side == "instructions":
            continue
        begins = side == "user" or (side == "assistant" != before and number > last_user)
        if begins and number > open_until:
            units.append([])
        units[-1].append(number)
        open_until = max(open_until, results.get(ids[number], -1))
        before = side
    return [unit for unit in units[:-1] if unit and last_user not in unit]


def side_of(item: InputItem) -> Side:
    if isinstance(item, MessageItem):
        if item.role in ("system", "developer"):
            return "instructions"
        return "user" if item.role == "user" else "assistant"
    is_result = isinstance(item, CallOutputItem | LoadedToolsItem) or item.type in OUTPUTS
    return "result" if is_result else "assistant"
