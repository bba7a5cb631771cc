"""Scenarios of service tiers: the order between them, and the shares in each."""

from collections.abc import Callable

from common.wire import Tier
from tests.chaos.scenarios import Stage
from tests.common.redis.queue_model import Twin


def earlier_tiers_go_first(stage: Stage) -> None:
    twin = Twin(stage.redis, {"a": 1.0, "b": 1.0})
    flex, default, urgent = twin.submit("a", "flex"), twin.submit("b"), twin.submit("a", "priority")
    assert [twin.claim() for _ in range(3)] == [urgent, default, flex]


def take_turns(twin: Twin, used: Tier, asked: Tier) -> None:
    """Key a uses much in one tier; in the other it has as many turns as key b."""
    held = [twin.submit(owner, asked) for owner in "ab"]  # go on all the time, so that no level is forgotten
    for _ in held:
        twin.claim()
    for _ in range(15):
        twin.submit("a", used)
        job = twin.claim()
        assert job is not None
        twin.append(job, 100, end=True)
    for _ in range(8):
        twin.submit("a", asked)
        twin.submit("b", asked)
    claimed: list[str] = []
    for _ in range(8):
        job = twin.claim()
        assert job is not None
        twin.append(job, 10, end=True)
        claimed.append(job.owner)
    assert claimed.count("a") == 4


def what_is_used_in_flex_costs_no_turn_in_default(stage: Stage) -> None:
    take_turns(Twin(stage.redis, {"a": 1.0, "b": 1.0}), "flex", "default")


TIER_CONTROLS: dict[str, Callable[[Stage], None]] = {
    "no_class_base": earlier_tiers_go_first,
    "shares_across_tiers": what_is_used_in_flex_costs_no_turn_in_default,
}
