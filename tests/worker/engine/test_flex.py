"""Flex sequences delay others by one short step at most, and lose nothing by waiting. Time is computed here."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from common.wire import Delta, SamplingParams
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from tests.worker.engine.test_sharing import tight_bench
from worker.drafting.lengths import Lengths
from worker.engine.costs import Load, StepCosts, work_of
from worker.engine.flex import RECENT_S, SHARE, TRY_EVERY, FlexRule, longest_delay, percentile
from worker.state.sequence import Sequence

Price = Callable[[Load], float]  # seconds of a step


def as_on_a_cpu(load: Load) -> float:
    return 0.002 + 0.002 * load.decoded + 0.001 * load.read if load != Load() else 0.0


def as_on_a_gpu(load: Load) -> float:
    return max(0.007, 0.001 * load.decoded) + 0.0001 * load.read if load != Load() else 0.0


class Known(StepCosts):
    """Costs that are known from the beginning."""

    def __init__(self, price: Price) -> None:
        super().__init__()
        self.low = self.high = price  # type: ignore[method-assign]

    def note(self, load: Load, seconds: float) -> None:
        """Nothing to learn."""

    def extra(self, load: Load, more: Load, *, tries: bool) -> float:
        return self.low(more) - self.low(load)


class Timed(Bench):
    """A bench whose clock runs by the price of its steps. `loads`: of all steps so far."""

    def __init__(self, folder_bench: Bench, price: Price, *, is_paced: bool = True) -> None:
        self.__dict__ |= folder_bench.__dict__
        self.price, self.now, self.is_paced = price, 0.0, is_paced
        self.batches: list[list[str]] = []
        self.loads: list[Load] = []
        self.heard: dict[str, list[float]] = {}  # when each token came
        scheduler = self.engine.scheduler
        scheduler.flex = FlexRule(Known(price), clock=lambda: self.now)
        real = scheduler.schedule

        def schedule():  # type: ignore[no-untyped-def]
            batch = real()
            load, works = work_of(batch)
            self.batches.append([request_id for request_id, *_ in works])
            self.loads.append(load)
            self.now += price(self.loads[-1])
            return batch

        scheduler.schedule = schedule  # type: ignore[method-assign]

    def add_flex(self, request_id: str, prompt: list[int], **sampling: object) -> None:
        self.engine.add(replace(self.request(request_id, prompt, **sampling), is_flex=self.is_paced))

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            begun = self.now
            events = self.engine.step()
            at = begun if self.engine.overlaps else self.now  # where steps overlap, these are of the one before
            for request_id, event in events:
                self.events.setdefault(request_id, []).append(event)
                if isinstance(event, Delta):
                    self.heard.setdefault(request_id, []).append(at)


def timed(bench: Bench, price: Price = as_on_a_cpu, **options: bool) -> Timed:
    return Timed(bench, price, **options)


def answer_flex(timed: Timed, num: int, **sampling: object) -> None:
    for at in range(num):
        timed.add_flex(f"f{at}", prompt_of(5, at), max_tokens=30, ignore_eos=True, **sampling)


def is_mixed(batch: list[str]) -> bool:
    return any(name.startswith("f") for name in batch) and not all(name.startswith("f") for name in batch)


def test_where_each_row_costs_time_no_flex_row_joins_others_and_all_go_on_later(bench: Bench) -> None:
    run = timed(bench)
    answer_flex(run, 4)
    run.step(6)
    run.add("other", prompt_of(20), max_tokens=10)
    run.finish()
    assert not any(map(is_mixed, run.batches))
    first, last = (f([at for at, batch in enumerate(run.batches) if "other" in batch]) for f in (min, max))
    assert last - first <= 20 // 16 + 10  # nothing in between
    assert all(run.token_ids(f"f{at}") == run.generate(prompt_of(5, at), 30) for at in range(4))
    assert run.engine.stats().recomputed_tokens == 0  # they kept their blocks


def test_where_rows_are_nearly_free_flex_rows_join_as_far_as_they_are(bench: Bench) -> None:
    run = timed(bench, lambda load: 0.007 + 0.003 * max(0, load.decoded - 3) if load != Load() else 0.0)
    answer_flex(run, 5)
    run.step(8)
    run.add("other", prompt_of(5), max_tokens=12)
    run.step(8)
    assert run.batches[-1] == ["other", "f0", "f1"]
    assert run.engine.scheduler.capacity.num_paused == 3


@pytest.mark.parametrize("price", [as_on_a_cpu, as_on_a_gpu], ids=["cpu", "gpu"])
@pytest.mark.parametrize("is_paced", [True, False], ids=["flex", "control"])
def test_others_wait_for_one_short_step_at_most(bench: Bench, price: Price, *, is_paced: bool) -> None:
    """The control: the same backlog without the rule."""

    def trickle(run: Timed) -> tuple[list[float], list[float]]:
        waits, lasted = [], []
        for number in range(8):
            name, begun = f"other{number}", run.now
            run.add(name, prompt_of(10 + number, number), max_tokens=6, ignore_eos=True)
            while len(run.token_ids(name)) < 6:
                run.step()
            waits.append(run.heard[name][0] - begun)
            lasted.append(run.heard[name][-1] - run.heard[name][0])
            run.step(3)
        return waits, lasted

    alone = trickle(timed(Bench(bench.folder, replace(SMALL, overlap=bench.engine.overlaps)), price))
    run = timed(bench, price, is_paced=is_paced)
    run.engine.scheduler.flex.note_first(max(alone[0]))
    for at in range(30):
        run.add_flex(f"f{at}", prompt_of(30, at), max_tokens=40, ignore_eos=True)
    beside = trickle(run)
    one_step = max(price(load) for load, batch in zip(run.loads, run.batches, strict=True) if not is_mixed(batch))
    limit = 1 + SHARE + 1e-9
    is_kept = all(w <= limit * a + one_step for a, w in zip(alone[0], beside[0], strict=True)) and all(
        w <= limit * a + price(Load(1)) for a, w in zip(alone[1], beside[1], strict=True)
    )
    assert is_kept is is_paced


def test_while_others_may_come_steps_without_them_are_short_and_later_they_are_full(bench: Bench) -> None:
    run = timed(bench)
    run.engine.scheduler.flex.note_first(0.2)
    run.add("other", prompt_of(4), max_tokens=2)
    run.finish()
    run.step()
    begin = len(run.loads)
    for at in range(8):
        run.add_flex(f"f{at}", prompt_of(60, at), max_tokens=30)
    run.step(40)
    short = [as_on_a_cpu(load) for load in run.loads[begin:]]
    assert 0.014 <= max(short) <= 1.2 * SHARE * 0.2
    run.now += RECENT_S
    run.step(20)
    assert max(load.decoded + load.read for load in run.loads[begin + 40 :]) == 16  # as many as a step takes
    run.finish()
    for at in range(8):
        assert run.token_ids(f"f{at}") == run.generate(prompt_of(60, at), 30)


def test_blocks_are_taken_from_flex_sequences_first_and_no_answer_changes(model_folder: ModelFolder) -> None:
    run = timed(tight_bench(model_folder, num_blocks=9), as_on_a_gpu)
    run.engine.scheduler.forecast.answers.share = 0.0
    run.add_flex("f0", prompt_of(20, 0), max_tokens=40, ignore_eos=True)
    run.add_flex("f1", prompt_of(20, 1), max_tokens=40, ignore_eos=True)
    run.step(4)
    for at in range(2):
        run.add(f"other{at}", prompt_of(20, 5 + at), max_tokens=40, ignore_eos=True)
    preempted = set()
    while run.engine.has_work:
        run.step()
        preempted |= {sequence.request_id for sequence in run.engine.scheduler.waiting if sequence.is_preempted}
    assert preempted and preempted <= {"f0", "f1"}
    for name, seed in (("f0", 0), ("f1", 1), ("other0", 5), ("other1", 6)):
        assert run.token_ids(name) == run.generate(prompt_of(20, seed), 40)
    assert run.engine.stats().kv_blocks_used == 0


def test_others_get_places_that_flex_sequences_hold(bench: Bench) -> None:
    run = timed(bench)
    answer_flex(run, 8)
    run.step(6)
    for at in range(3):
        run.add(f"other{at}", prompt_of(4, at), max_tokens=3)
    run.step(2)
    assert sum(not sequence.is_flex for sequence in run.engine.scheduler.running) == 3
    run.finish()
    assert all(run.token_ids(f"f{at}") == run.generate(prompt_of(5, at), 30) for at in range(8))


def test_a_flex_request_leaves_a_reserve_and_none_is_added_while_others_make_some_wait(bench: Bench) -> None:
    run = timed(bench)
    assert run.engine.has_room(5, 1, 5, is_flex=True)
    answer_flex(run, 7)
    run.step(8)
    assert run.engine.has_room(5, 1, 5) and not run.engine.has_room(5, 1, 5, is_flex=True)
    assert run.engine.has_room(5, 1, 5, without=["f0"], is_flex=True)
    run.engine.cancel("f0")
    assert run.engine.has_room(5, 1, 5, is_flex=True)
    run.add("other", prompt_of(4), max_tokens=9)
    run.step(2)
    assert not run.engine.has_room(5, 1, 5, is_flex=True)


def test_a_suspect_of_flex_runs_alone_and_then_the_others_go_first_again(bench: Bench) -> None:
    run = timed(bench)
    run.engine.add(replace(run.request("f-suspect", prompt_of(6)), is_flex=True), is_suspect=True)
    run.add("other", prompt_of(6, 2), max_tokens=6)
    run.step(3)
    assert {name for batch in run.batches for name in batch} == {"f-suspect"}
    run.engine.clear_suspicion("f-suspect")
    run.step(3)
    assert run.batches[-1] == ["other"]
    run.finish()
    assert run.token_ids("f-suspect") == run.generate(prompt_of(6))


def test_several_choices_of_a_flex_request_are_the_same_after_waiting(bench: Bench) -> None:
    run = timed(bench)
    sampling = {"n": 3, "temperature": 1.0, "seed": 5, "max_tokens": 12}
    run.add_flex("f-before", prompt_of(40), **sampling)
    run.finish()
    run.add_flex("f-after", prompt_of(40, 1)[:1] + prompt_of(40)[1:], max_tokens=1)
    run.add_flex("f-again", prompt_of(40), **sampling)
    for at in range(4):
        run.step(2)
        run.add(f"other{at}", prompt_of(18, at), max_tokens=4)
    run.finish()
    for index in range(3):
        assert run.token_ids("f-again", index) == run.token_ids("f-before", index)


def test_flex_sequences_are_not_drafted_for_among_others(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = timed(Bench(model_folder(), replace(SMALL, speculate=4)))
    run.add_flex("f0", prompt_of(5) * 3, max_tokens=40)
    run.step(2)
    asked: list[str] = []
    real = Lengths.choose

    def choose(lengths: Lengths, sequences: list[Sequence], rooms: list[int]) -> list[int]:
        asked.extend(sequence.request_id for sequence in sequences)
        return real(lengths, sequences, rooms)

    monkeypatch.setattr(Lengths, "choose", choose)
    run.add("other", prompt_of(6, 2), max_tokens=8, ignore_eos=True)
    run.step(6)
    assert set(asked) == {"other"}
    run.finish()
    assert run.token_ids("f0") == run.generate(prompt_of(5) * 3, 40)


def test_device_time_is_charged_to_requests_and_none_of_it_is_lost(bench: Bench) -> None:
    charged: dict[str, int] = {}
    bench.add("long", prompt_of(60), max_tokens=30)
    bench.add("short", prompt_of(5), max_tokens=3)
    while bench.engine.has_work:
        bench.step()
        for request_id, gpu_us in bench.engine.take_gpu_us().items():
            charged[request_id] = charged.get(request_id, 0) + gpu_us
    assert set(charged) == {"long", "short"} and charged["long"] > charged["short"] > 0
    assert bench.engine.take_gpu_us() == {}


def test_a_step_before_others_may_be_longer_where_their_waits_differ() -> None:
    even, uneven = [0.1] * 32, [0.01 + 0.02 * (at % 8) for at in range(32)]
    assert longest_delay(even) == pytest.approx(0.1 * SHARE, rel=0.2)
    assert longest_delay(uneven) > 1.4 * SHARE * 0.15
    for waits in (even, uneven):
        rnd = random.Random(1)
        delayed = [rnd.choice(waits) + rnd.random() * longest_delay(waits) for _ in range(20_000)]
        assert percentile(delayed) <= (1 + 1.3 * SHARE) * percentile(waits)
    assert longest_delay([]) == 0.0


def test_sizes_that_were_never_measured_are_tried_beside_others_in_few_steps_only() -> None:
    costs = StepCosts()
    for _ in range(20):
        costs.note(Load(decoded=1), 0.007)
    rule, others = FlexRule(costs), Load(decoded=1)
    row = Sequence("f", 0, SamplingParams(8, 0), [1, 2], 1, text=None, stop_token_ids=frozenset(), num_computed=1)  # type: ignore[arg-type]
    tried = [rule.pace(others).most(row, 1) for _ in range(2 * TRY_EVERY)]
    assert sum(tried) == 2
    for _ in range(20):
        costs.note(Load(decoded=2), 0.007)
    assert rule.pace(others).most(row, 1) == 1
