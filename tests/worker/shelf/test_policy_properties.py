"""What the policy of many models promises, on a simulated device with random jobs; and for each promise a control."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.swap_model import Device, Job, Made, Model, Policy, Simulation
from common.wire import Tier
from worker.shelf import policy
from worker.shelf.policy import decide, has_work
from worker.shelf.view import ModelView, ShelfView, Stay, Swap

TICK_S = 0.1
QUICK = settings(max_examples=12, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def one_at_a_time(seed: int, tiers: tuple[Tier, ...] = ("default",), num_jobs: int = 60) -> Simulation:
    """Two to five models of which one fits, and jobs of four keys, all within 30 seconds."""
    random = Random(seed)
    models = [Model(f"m{at}", 10, random.choice((0.3, 1.0, 2.0))) for at in range(random.randint(2, 5))]
    wait_s = random.choice((5.0, 15.0, 30.0))
    jobs = [
        Job(
            arrival=random.uniform(0, 30),
            model=random.randrange(len(models)),
            key=random.randrange(4),
            tier=random.choice(tiers),
            prefill_s=0.01,
            tokens=random.choice((1, 50, 500)),
        )
        for _ in range(num_jobs)
    ]
    jobs.sort(key=lambda job: job.arrival)
    return Simulation(Device(10, max_swap_wait_s=wait_s), models, jobs, decide, TICK_S)


def ran(simulation: Simulation, chosen: Policy = decide, until: float = 1000) -> Simulation:
    simulation.policy = chosen
    simulation.run(until)
    return simulation


seeds = st.integers(0, 10_000)


def bound_s(simulation: Simulation) -> float:
    """A round in which each model has a swap and a least turn may take longer than the wait that is allowed."""
    swaps_s = [model.swap_in_s for model in simulation.models]
    resumed_s = 6 * TICK_S * len(swaps_s)  # the paused answers of each model are computed again within a tick or two
    return max(simulation.device.max_swap_wait_s, 2 * sum(swaps_s) + resumed_s) + max(swaps_s) + 3 * TICK_S


def keeps_the_bound(simulation: Simulation) -> None:
    assert all(job.ended is not None for job in simulation.jobs)
    assert simulation.longest_head_s <= bound_s(simulation)


@QUICK
@given(seeds)
def test_no_head_waits_longer_than_it_may_and_one_swap(seed: int) -> None:
    simulation = one_at_a_time(seed, ("default", "default", "priority", "flex"))
    for at, model in enumerate(simulation.models):
        model.bytes = 10 if seed % 2 else 3 + (seed + at) % 5  # or some of them fit together
    for job in simulation.jobs[::5]:
        job.deadline = job.arrival + 3 + seed % 20
    keeps_the_bound(ran(simulation))


def test_without_looking_ahead_heads_wait_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: priority jobs come all the time, and one default job waits for another model."""

    def rival() -> Simulation:
        jobs = [Job(0.5 * at, at % 2, tier="priority", prefill_s=0.01, tokens=60) for at in range(300)]
        late = Job(1.0, 2, prefill_s=0.01, tokens=10)
        device = Device(10, max_swap_wait_s=15.0)
        models = [Model(f"m{at}", 10, 1.0) for at in range(3)]
        return Simulation(device, models, sorted([*jobs, late], key=lambda job: job.arrival), decide, TICK_S)

    keeps_the_bound(ran(rival()))
    monkeypatch.setattr(policy, "slack", lambda *_: float("inf"))
    with pytest.raises(AssertionError):
        keeps_the_bound(ran(rival()))


def pays_for_each_swap(simulation: Simulation) -> None:
    """Before answers are paused for others, as much has been computed as loading their model took."""
    swap_in_s = {model.name: model.swap_in_s for model in simulation.models}
    for before, after in zip(simulation.swaps, simulation.swaps[1:], strict=False):
        if any(has_work(model) for model in gone(after)):
            assert after.computed_s - before.computed_s >= swap_in_s[before.decision.to] - 2 * TICK_S


def gone(made: Made) -> list[ModelView]:
    return [model for model in made.view.models if model.name in made.decision.out]


@QUICK
@given(seeds)
def test_between_two_swaps_at_least_as_much_is_computed_as_a_swap_costs(seed: int) -> None:
    pays_for_each_swap(ran(one_at_a_time(seed, ("default", "priority", "flex"))))


def test_without_a_least_turn_models_take_each_other_s_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(policy, "least_turn", lambda _: 0.0)
    with pytest.raises(AssertionError):
        for seed in range(20):
            pays_for_each_swap(ran(one_at_a_time(seed)))


def goes_on_under_load(simulation: Simulation) -> None:
    simulation.run(100)
    assert sum(job.ended is not None for job in simulation.jobs) > len(simulation.jobs) / 2


def paused_answers_are_many() -> Simulation:
    models = [Model(f"m{at}", 10, 1.0) for at in range(4)]
    jobs = [Job(at, at % 4, prefill_s=0.1, tokens=150) for at in range(100)]
    return Simulation(Device(10), models, jobs, decide, TICK_S)


def test_paused_answers_go_on_however_long_it_takes_to_compute_them_again(monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on_under_load(paused_answers_are_many())
    monkeypatch.setattr(policy, "least_turn", lambda model: model.swap_in_s)  # the control
    with pytest.raises(AssertionError):
        goes_on_under_load(paused_answers_are_many())


def keeps_the_order_of_a_model(simulation: Simulation) -> None:
    """Of one key and tier, jobs begin in the order in which they came."""
    for one in simulation.jobs:
        for other in simulation.jobs:
            is_same_line = (one.model, one.key, one.tier) == (other.model, other.key, other.tier)
            if is_same_line and one.arrival < other.arrival:
                assert one.first_token is not None and other.first_token is not None
                assert one.first_token <= other.first_token


@QUICK
@given(seeds)
def test_jobs_of_a_model_begin_in_their_order(seed: int) -> None:
    keeps_the_order_of_a_model(ran(one_at_a_time(seed)))


def test_paused_jobs_that_join_the_end_of_their_queue_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: of the simulation, since the policy chooses no job."""
    monkeypatch.setattr(Job, "order", property(lambda job: (0, job.done == 0, -job.arrival)))
    with pytest.raises(AssertionError):
        for seed in range(20):
            keeps_the_order_of_a_model(ran(one_at_a_time(seed)))


def part_of_many(num_keys: int) -> float:
    """One key floods one model, others flood another one: what part of the work is theirs."""
    jobs = [Job(0.0, 0, key=0, prefill_s=0.01, tokens=500) for _ in range(150)]
    jobs += [Job(0.0, 1, key=1 + at % num_keys, prefill_s=0.01, tokens=500) for at in range(150)]
    simulation = Simulation(Device(10), [Model("one", 10, 0.5), Model("many", 10, 0.5)], jobs, decide, TICK_S)
    simulation.run(120)
    done = [sum(job.done for job in simulation.jobs if job.model == at) for at in (0, 1)]
    return done[1] / sum(done)


@pytest.mark.parametrize("num_keys", [1, 3])
def test_models_get_time_in_proportion_to_the_keys_that_wait_for_them(num_keys: int) -> None:
    assert part_of_many(num_keys) == pytest.approx(num_keys / (num_keys + 1), abs=0.1)


def test_turns_of_equal_length_favour_the_key_that_floods(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(policy, "turn", lambda *_: 10.0)
    assert part_of_many(3) < 0.65


def swaps_for_flex_only_alone(simulation: Simulation) -> None:
    for made in simulation.swaps:
        to = next(model for model in made.view.models if model.name == made.decision.to)
        if to.waiting.oldest_s is None:
            others = [model for model in made.view.models if model.name != to.name]
            assert all(model.waiting.oldest_s is None for model in others)
            assert all(model.running.tier in (None, "flex") for model in gone(made))


@QUICK
@given(seeds)
def test_flex_never_causes_a_swap_while_other_work_waits(seed: int) -> None:
    simulation = ran(one_at_a_time(seed, ("default", "flex", "flex")))
    swaps_for_flex_only_alone(simulation)
    assert all(job.ended is not None for job in simulation.jobs), "flex jobs have their time at last"


def test_flex_jobs_that_count_as_others_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(policy, "claim_of", policy.flex_claim_of)
    with pytest.raises(AssertionError):
        for seed in range(20):
            swaps_for_flex_only_alone(ran(one_at_a_time(seed, ("default", "flex", "flex")), until=100))


def some_fit(seed: int) -> Simulation:
    """Models of many sizes, some of them pinned."""
    random = Random(seed)
    simulation = one_at_a_time(seed, ("default", "priority", "flex"))
    for model in simulation.models:
        model.bytes = random.randint(1, 10)
        model.is_pinned = random.random() < 0.2 and model.bytes < 4
    simulation.device = replace(simulation.device, max_loaded=random.randint(1, 4))
    return simulation


def decides_what_fits(simulation: Simulation) -> None:
    for made in simulation.swaps:
        loaded = [model for model in made.view.models if model.is_loaded]
        out = gone(made)
        to = next(model for model in made.view.models if model.name == made.decision.to)
        stay = [model for model in loaded if model not in out]
        assert not to.is_loaded and len(out) == len(made.decision.out) and all(model in loaded for model in out)
        assert not any(model.is_pinned for model in out)
        assert sum(model.bytes for model in stay) + to.bytes <= made.view.capacity
        assert len(stay) < made.view.max_loaded


@QUICK
@given(seeds)
def test_every_decision_fits_and_no_pinned_model_leaves(seed: int) -> None:
    decides_what_fits(ran(some_fit(seed), until=100))


def test_a_policy_that_does_not_look_at_memory_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    monkeypatch.setattr(policy, "fits", lambda *_: True)
    with pytest.raises(AssertionError):
        for seed in range(20):
            decides_what_fits(ran(some_fit(seed), until=100))


def keeps_pinned_models(simulation: Simulation) -> None:
    assert not any(model.is_pinned for made in simulation.swaps for model in gone(made))


def test_a_policy_that_forgets_pins_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""
    unpinned: Callable[[ShelfView], ShelfView] = lambda view: replace(  # noqa: E731
        view, models=tuple(replace(model, is_pinned=False) for model in view.models)
    )
    with pytest.raises(AssertionError):
        for seed in range(20):
            keeps_pinned_models(ran(some_fit(seed), lambda view: decide(unpinned(view)), until=100))


@QUICK
@given(seeds)
def test_the_same_view_gives_the_same_decision_in_whatever_order_its_models_are(seed: int) -> None:
    def twice(view: ShelfView) -> Stay | Swap:
        decision = decide(view)
        assert decide(replace(view, models=view.models[::-1])) == decision
        return decision

    ran(some_fit(seed), twice, until=100)
