"""Tiers are classes of the queue, and shares are counted apart in each: the scripts against a plain model."""

from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from common.errors import Overloaded
from common.redis import keys, script
from common.redis.metrics import read
from common.redis.script import source
from common.wire import TIERS, Tier
from tests.chaos.mutations import broken
from tests.chaos.tier_scenarios import take_turns
from tests.common.redis.queue_model import QUEUE, Job, Twin

WEIGHTS = {"a": 1.0, "b": 2.0, "c": 0.5, "d": 4.0}
COMMON = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)

submits = st.tuples(
    st.just("submit"), st.sampled_from("abcd"), st.sampled_from(TIERS), st.integers(-2, 2), st.integers(1, 9)
)
others = st.tuples(
    st.sampled_from(["claim", "claim", "append", "append", "end", "give_back", "make_room", "cancel", "restart"]),
    st.integers(0, 99),
    st.integers(1, 40),
)
walks = st.lists(st.one_of(submits, others, others), max_size=70)


def order(job: Job) -> tuple[float, int]:
    return job.class_, job.ticket


def claim_the_right_one(twin: Twin) -> Job | None:
    waiting, expected = twin.model.waiting(), twin.model.next()
    ranks = {job.id: order(job) for job in waiting}
    claimed = twin.claim()
    if claimed is None:
        assert not waiting
        return None
    assert not [job for job in waiting if TIERS.index(job.tier) < TIERS.index(claimed.tier)], "a later tier went first"
    own = [job for job in waiting if (job.owner, job.tier) == (claimed.owner, claimed.tier)]
    assert ranks[claimed.id] == min(ranks[job.id] for job in own), "out of order within its owner and tier"
    assert expected is not None and claimed.id == expected.id, "another owner was next"
    return claimed


def walk(twin: Twin, steps: list[tuple]) -> None:
    for name, *values in steps:
        if name == "submit":
            twin.submit(*values)
            continue
        number, num_tokens = values
        running, waiting = twin.model.running(), twin.model.waiting()
        if name == "claim":
            claim_the_right_one(twin)
        elif name == "restart":
            twin.restart()
        elif name == "cancel" and waiting:
            twin.cancel(waiting[number % len(waiting)])
        elif name in ("append", "end") and running:
            twin.append(running[number % len(running)], num_tokens, end=name == "end")
        elif name == "give_back" and running:
            twin.give_back(running[number % len(running)])
        elif name == "make_room" and running:
            twin.make_room(running[number % len(running)])


def drain(twin: Twin) -> None:
    """Every job that was accepted ends, and nothing of it is left in the queue."""
    while twin.model.running() or twin.model.waiting():
        for job in twin.model.running():
            twin.append(job, 1, end=True)
        claim_the_right_one(twin)
    for job in twin.model.jobs:
        assert twin.redis.hget(keys.job_key(job.id), "state") in (b"finished", b"cancelled")
    left = [key.decode() for key in twin.redis.keys("omni:*")]
    assert not [
        key for key in left if key.partition(QUEUE)[0].endswith((":line:", ":served:", ":places:", ":waiting:"))
    ]


@settings(COMMON, max_examples=100)
@given(walks)
def test_whatever_happens_the_scripts_claim_what_the_model_claims(redis: "Redis", steps: list[tuple]) -> None:
    redis.flushall()
    twin = Twin(redis, WEIGHTS)
    walk(twin, steps)
    drain(twin)


def served_by(twin: Twin, random: Random, num_places: int, num_claims: int) -> None:
    """A worker of so many places; default jobs come in bursts, so that flex jobs are claimed in between."""
    for number in range(num_claims):
        for owner in "abc":
            while sum((job.owner, job.tier) == (owner, "flex") for job in twin.model.waiting()) < 2:
                twin.submit(owner, "flex", num_prompt=random.randrange(1, 20))
        if number % 7 == 0:
            for owner in "aad":
                twin.submit(owner, num_prompt=random.randrange(1, 20))
        while len(twin.model.running()) >= num_places:
            twin.append(random.choice(twin.model.running()), random.randrange(1, 30), end=random.random() < 0.5)
        assert twin.claim() is not None


def tokens_of(twin: Twin, tier: Tier) -> dict[str, float]:
    """Prompt and answer of each owner in the tier, divided by its weight, as the logs have them."""
    found: dict[str, float] = {}
    for job in twin.model.jobs:
        if job.tier == tier and not job.is_new:
            num_tokens = int(twin.redis.hget(keys.job_key(job.id), "tokens") or 0)
            found[job.owner] = found.get(job.owner, 0) + (job.num_prompt + num_tokens) / WEIGHTS[job.owner]
    return found


def converge(redis: "Redis", seed: int, num_places: int) -> None:
    redis.flushall()
    twin = Twin(redis, WEIGHTS)
    served_by(twin, Random(seed), num_places, 150)
    levels = tokens_of(twin, "flex")
    most_in_flight = num_places * 120 / min(WEIGHTS.values())
    assert max(levels.values()) > 1.5 * most_in_flight, "too short to tell"
    assert max(levels.values()) - min(levels.values()) <= most_in_flight


@settings(COMMON, max_examples=6)
@given(st.integers(0, 1000), st.sampled_from([1, 2]))
def test_shares_of_a_tier_converge_to_the_weights_in_tokens(redis: "Redis", seed: int, num_places: int) -> None:
    converge(redis, seed, num_places)


@pytest.mark.parametrize(("used", "asked"), [("flex", "default"), ("default", "flex"), ("priority", "default")])
def test_what_a_key_used_in_one_tier_costs_no_turn_in_another(redis: "Redis", used: Tier, asked: Tier) -> None:
    take_turns(Twin(redis, {"a": 1.0, "b": 1.0}), used, asked)


def test_with_one_set_of_shares_for_all_tiers_shares_do_not_converge(redis: "Redis") -> None:
    with broken("shares_across_tiers"), pytest.raises(AssertionError):
        for seed in range(3):
            converge(redis, seed, 1)


def test_without_a_base_for_each_class_a_later_tier_goes_first(redis: "Redis") -> None:
    with broken("no_class_base"):
        twin = Twin(redis, WEIGHTS)
        twin.submit("a", "flex")
        twin.submit("b", "default")
        with pytest.raises(AssertionError, match="later tier"):
            claim_the_right_one(twin)


@pytest.mark.parametrize("owner", ["a", "b"])
def test_a_flex_job_makes_room_for_an_earlier_tier_as_often_as_it_must(redis: "Redis", owner: str) -> None:
    twin = Twin(redis, WEIGHTS)
    flex = twin.submit("a", "flex")
    twin.claim()
    for number in range(40):
        twin.append(flex, 1)
        urgent = twin.submit(owner, "default" if number % 2 else "priority")
        assert twin.make_room(flex) is urgent, "also for a job of its own key"
        twin.append(urgent, 1, end=True)
        assert twin.claim() is flex
    assert redis.hget(keys.job_key(flex.id), "made_room") is None, "it is not bounded"
    assert read(redis, QUEUE)["paused_jobs"] == 40 and "jobs_that_made_room" not in read(redis, QUEUE)
    assert redis.xlen(keys.log_key(flex.id)) == 40


def test_a_queue_full_of_flex_jobs_takes_default_ones_and_not_the_reverse(redis: "Redis") -> None:
    twin = Twin(redis, WEIGHTS)
    twin.store.max_queue = 3
    for _ in range(3):
        twin.submit("a", "flex")
    with pytest.raises(Overloaded):
        twin.submit("a", "flex")
    for _ in range(3):
        twin.submit("a")
    with pytest.raises(Overloaded):
        twin.submit("a")
    with pytest.raises(Overloaded):
        twin.submit("a", "flex")
    twin.submit("a", "priority")
    drain(twin)


def test_jobs_of_a_version_without_tiers_run_in_default_by_their_priority(redis: "Redis") -> None:
    twin = Twin(redis, WEIGHTS)
    late, first = twin.submit("a", priority=1), twin.submit("b")
    flex = twin.submit("c", "flex")
    for job, priority in ((late, 1), (first, 0)):
        redis.hdel(keys.job_key(job.id), "tier", "class")
        redis.hset(keys.job_key(job.id), "priority", priority)
    for job in (first, late, flex):
        assert twin.claim() is job
    twin.give_back(late)
    assert twin.claim() is late
    for job in (first, late, flex):
        twin.append(job, 1, end=True)
    drain(twin)


def test_a_worker_of_a_version_without_tiers_keeps_their_order_by_the_priority_field(redis: "Redis") -> None:
    twin = Twin(redis, WEIGHTS)
    for tier in TIERS:
        job = twin.submit("a", tier, priority=1)
        assert int(redis.hget(keys.job_key(job.id), "priority") or 0) == keys.BASES[tier] + 1


@pytest.mark.parametrize(("window_s", "class_"), [(0, 1000), (7200, 998), (8 * 3600, 999), (86_400, 1000)])
def test_shorter_windows_go_first_among_flex_jobs(redis: "Redis", window_s: int, class_: int) -> None:
    job = Twin(redis, WEIGHTS).submit("a", "flex", window_s=window_s)
    assert redis.hget(keys.job_key(job.id), "class") == str(class_).encode()


levels = st.one_of(st.integers(0, 10**9), st.floats(0, 1e6).map(lambda value: round(value * 4) / 4))
ranks = st.tuples(st.integers(-2200, 2200).map(lambda value: value / 2), levels, st.integers(0, 170))


@settings(COMMON, max_examples=300)
@given(st.lists(ranks, min_size=2, max_size=12))
def test_scores_keep_the_order_of_class_tokens_and_places(redis: "Redis", ranks: list[tuple]) -> None:
    """A score is a double: of the farthest class it still tells a quarter of a token, and one place, apart."""
    asked = source("poll", script.FOLDER).partition("-- The status of jobs")[0] + (
        "local found = {}\n"
        "for at = 1, #ARGV, 3 do\n"
        "  local score = score_of(tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]))\n"
        "  redis.call('ZADD', 'ranks', score, member_of(at, 'x'))\n"
        "end\n"
        "return redis.call('ZRANGE', 'ranks', 0, -1)"
    )
    redis.delete("ranks")
    found = redis.eval(asked, 0, *(value for rank in ranks for value in rank))
    in_order = [ranks[(int(member[:15]) - 1) // 3] for member in found]
    assert in_order == sorted(ranks, key=lambda rank: (rank[0], rank[1] + rank[2] * 0.005))
