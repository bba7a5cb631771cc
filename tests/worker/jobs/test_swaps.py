"""Models of a table come and go under a scripted shelf: their jobs wait, run, pause and go on, and none is lost."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import inf
from threading import Event

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from common.flag import Flag
from common.redis import keys
from common.redis.metrics import read
from common.redis.served.shelf import Order, ShelfReport, ShelfStore
from tests.chaos.checker import Report, check_log, check_redis
from tests.chaos.fake_worker import FakeEngine, FakeLoaded, expected_text, fake_load
from tests.chaos.scenarios import Stage
from worker.engine.interface import NotLoaded
from worker.jobs.hang_watch import HangWatch
from worker.jobs.heartbeat import Heartbeat
from worker.jobs.ledger import Ledger, bury
from worker.jobs.omni_worker import OmniWorker
from worker.jobs.publisher import Publisher
from worker.jobs.served_model import ServedModel
from worker.jobs.swaps import Swaps
from worker.shelf.changes import Change, Leaving, LoadFailed, Opened, Stayed
from worker.shelf.etas import Eta
from worker.shelf.view import Running, Waiting

A, B, C = "model-a", "model-b", "model-c"


class ScriptedShelf:
    """An AnyShelf that does what a test tells it, and notes what it is told."""

    def __init__(self) -> None:
        self.next: list[Change] = []
        self.gone: list[str] = []
        self.told: list[object] = []
        self.expected: Mapping[str, Eta] = {}
        self.waiting: Mapping[str, Waiting] = {}
        self.running: Mapping[str, Running] = {}

    def advance(self, waiting: Mapping[str, Waiting], running: Mapping[str, Running]) -> list[Change]:
        self.waiting, self.running = waiting, running
        changes, self.next = self.next, []
        return changes

    def closed(self, queue: str) -> None:
        self.gone.append(queue)

    def order(self, queue: str, action: str, keep_alive_s: float | None = None) -> None:
        self.told.append((queue, action, keep_alive_s))

    def keep_alive(self, queue: str, seconds: float | None) -> None:
        self.told.append((queue, seconds))

    def etas(self) -> Mapping[str, Eta]:
        return self.expected

    def report(self, worker: str, swapped_out: Mapping[str, int]) -> ShelfReport:
        return ShelfReport(worker, 1e12, "cpu", 0, 0, 0, 0, 1, (), why=str(dict(swapped_out)))


class ToldWatch(HangWatch):
    """Keeps what is told of loading."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.loading: list[str] = []

    def tell_loading(self, queue: str) -> None:
        super().tell_loading(queue)
        self.loading.append(queue)


class Table:
    """One worker process with several models, none of them loaded."""

    def __init__(self, stage: Stage, queues: Sequence[str] = (A, B), name: str = "one") -> None:
        self.stage, self.shelf, self.wake = stage, ScriptedShelf(), Flag()
        watch = self.hang_watch = ToldWatch(os.open(os.devnull, os.O_WRONLY))
        self.models = {queue: self._model(queue, name, watch) for queue in queues}
        self.swaps = Swaps(self.shelf, self.models, Event())  # type: ignore[arg-type]
        self.worker = OmniWorker(list(self.models.values()), self.wake, watch, self.swaps)

    def _model(self, queue: str, name: str, watch: HangWatch) -> ServedModel:
        ledger = Ledger(self.stage.redis, queue, name)
        loaded: FakeLoaded = fake_load("", (queue,), None, None)
        ledger.publish_card(loaded.card)
        ledger.register()
        ledger.renew({})
        publisher = Publisher(Redis(connection_pool=self.stage.redis.connection_pool), ledger.fence)
        return ServedModel(ledger, NotLoaded(loaded.card), publisher, self.wake, watch)

    def opened(self, queue: str) -> Opened:
        engine = FakeEngine(fake_load("", (queue,), None, None), type("Config", (), {"max_num_seqs": 8}))
        engine.step_s = 0.0
        return Opened(queue, engine, 1)

    def open(self, *queues: str) -> None:
        self.turn(0, *(self.opened(queue) for queue in queues))

    def turn(self, times: int = 1, *changes: Change) -> None:
        """Let the changes happen, then go round so often."""
        if changes:
            self.shelf.next = list(changes)
            self.look()
        for _ in range(times):
            self.look()
            for model in self.models.values():
                model.inbox.wake()
                model.cancel_requested()
                model.admit()
                model.make_room()
            self.wake.set()
            self.worker.step_or_rest()

    def look(self) -> None:
        self.swaps._look_at = 0.0
        self.swaps.advance()

    def finish(self, *job_ids: str) -> None:
        for _ in range(400):
            if all(self.stage.field(job_id, "state") in ("finished", "failed", "cancelled") for job_id in job_ids):
                return
            self.turn()
        raise AssertionError(f"not ended: {[self.stage.field(job_id, 'state') for job_id in job_ids]}")

    @property
    def fences(self) -> list[int]:
        return [model.ledger.fence for model in self.models.values()]


@pytest.fixture
def stage(redis: "Redis") -> Stage:
    return Stage(redis)


@pytest.fixture
def table(stage: Stage) -> Table:
    return Table(stage)


def judged(stage: Stage, jobs: Mapping[str, tuple[str, int, int]]) -> list[str]:
    """The faults of these jobs (id -> queue, seed, tokens)."""
    report = Report()
    for queue in {queue for queue, _, _ in jobs.values()}:
        check_redis(report, stage.redis, queue, [job_id for job_id, (of, _, _) in jobs.items() if of == queue])
    for job_id, (_, seed, num_tokens) in jobs.items():
        check_log(report, stage.redis, job_id, "finished")
        if stage.text(job_id) != expected_text(seed, num_tokens):
            report.wrong.append(f"the text of {job_id} differs")
    return report.verdicts


def leaving(queue: str, *, finishes: bool) -> Leaving:
    return Leaving(queue, finishes, "a test")


def test_jobs_of_a_model_that_is_not_loaded_wait_until_it_is(stage: Stage, table: Table) -> None:
    table.open(A)
    first, other = stage.submit(1, 5, A), stage.submit(2, 5, B)
    table.finish(first)
    assert stage.field(other, "state") == "queued" and table.shelf.waiting[B].jobs == 1
    table.open(B)
    table.finish(other)
    assert judged(stage, {first: (A, 1, 5), other: (B, 2, 5)}) == []


def test_models_that_are_loaded_together_both_go_on(stage: Stage, table: Table) -> None:
    table.open(A, B)
    jobs = {stage.submit(seed, 20, queue): (queue, seed, 20) for seed, queue in enumerate([A, B] * 3)}
    table.turn(20)
    begun = {queue: int(table.models[queue].engine.stats().generated_tokens) for queue in (A, B)}
    assert min(begun.values()) > 0
    table.finish(*jobs)
    table.turn()
    assert judged(stage, jobs) == []


@pytest.mark.parametrize("num_models", [2, 3])
def test_paused_answers_go_on_as_if_nothing_had_happened(stage: Stage, num_models: int) -> None:
    table = Table(stage, (A, B, C)[:num_models])
    queues, jobs = list(table.models), dict[str, tuple[str, int, int]]()
    for round_ in range(12):
        queue = queues[round_ % num_models]
        table.open(queue)
        for seed in range(round_ * 10, round_ * 10 + 3):
            jobs[stage.submit(seed, 25, queue)] = queue, seed, 25
        table.turn(7)
        held = [job_id for job_id in jobs if stage.field(job_id, "state") == "running"]
        table.turn(0, leaving(queue, finishes=False))
        assert held and {stage.field(job_id, "state") for job_id in held} == {"queued"}
        assert table.shelf.gone.pop() == queue and not table.models[queue].is_loaded
    table.open(*queues)
    table.finish(*jobs)
    table.turn()
    assert judged(stage, jobs) == []
    assert {stage.field(job_id, "crashes") for job_id in jobs} == {"0"}


def test_paused_answers_go_on_before_others_of_their_class_and_after_those_of_earlier_ones(
    stage: Stage, table: Table
) -> None:
    table.open(A)
    paused = [stage.submit(seed, 50, A) for seed in range(3)]
    table.turn(4)
    flex = stage.submit(5, 50, A, tier="flex")
    table.turn(2)
    assert stage.field(flex, "state") == "running"
    later = stage.submit(9, 5, A)
    table.turn(0, leaving(A, finishes=False))
    urgent = stage.submit(10, 5, A, tier="priority")
    claims = [table.models[A].ledger.claim(0) for _ in range(6)]
    assert [claim.request.id for claim in claims if claim is not None] == [urgent, *paused, later, flex]


def test_answers_that_may_finish_do_and_no_other_begins(stage: Stage, table: Table) -> None:
    table.open(A)
    running = stage.submit(1, 12, A)
    table.turn(3)
    table.turn(1, leaving(A, finishes=True))
    late = stage.submit(2, 5, A)
    table.turn(4)
    assert table.shelf.gone == [] and stage.field(late, "state") == "queued"
    table.finish(running)
    table.turn(2)
    assert table.shelf.gone == [A] and not table.models[A].is_loaded
    table.open(A)
    table.finish(late)
    assert judged(stage, {running: (A, 1, 12), late: (A, 2, 5)}) == []


def test_answers_that_take_too_long_are_paused_after_all(stage: Stage, table: Table) -> None:
    table.open(A)
    job_id = stage.submit(1, 100, A)
    table.turn(3)
    table.turn(2, leaving(A, finishes=True))
    table.turn(0, leaving(A, finishes=False))
    assert table.shelf.gone == [A] and stage.field(job_id, "state") == "queued"


def test_a_model_that_stays_admits_jobs_again(stage: Stage, table: Table) -> None:
    table.open(A)
    running = stage.submit(1, 30, A)
    table.turn(3)
    table.turn(1, leaving(A, finishes=True))
    late = stage.submit(2, 5, A)
    table.turn(1, Stayed(A))
    table.finish(late, running)
    assert table.shelf.gone == []


def test_where_no_time_is_known_none_is_reported(stage: Stage, table: Table) -> None:
    table.shelf.expected = {A: Eta(inf, inf)}  # its place is held; nothing is known of B
    table.swaps._report_at = 0.0
    table.look()
    assert table.models[A].load_times == {"loads_in_ms": -1, "soonest_ms": -1}
    assert table.models[B].load_times == {"loads_in_ms": -1, "soonest_ms": 0}
    table.open(B)
    assert table.models[B].load_times == {"loads_in_ms": 0, "soonest_ms": 0}


def test_jobs_of_a_model_that_can_never_be_loaded_fail_with_the_cause(stage: Stage, table: Table) -> None:
    job_id = stage.submit(1, 5, B)
    table.turn(1, LoadFailed(B, "model.safetensors is not complete.", may_retry=False))
    table.turn()
    end = stage.entries(job_id)[-1].event
    assert (stage.field(job_id, "state"), stage.field(job_id, "code")) == ("failed", "model_load_failed")
    assert "'model-b' could not be loaded: model.safetensors is not complete." in str(end)
    ShelfStore(stage.redis).order(Order(B, "load"))
    table.models[B].inbox.order()
    table.turn()
    later = stage.submit(2, 5, B)
    table.turn(2)
    assert stage.field(later, "state") == "queued"
    table.open(B)
    table.finish(later)
    assert stage.field(later, "state") == "finished"


def test_a_death_counts_as_one_of_loading_until_the_model_is_warm(stage: Stage, table: Table) -> None:
    """Warming up may end the process as well as reading weights."""
    table.turn(1, leaving(A, finishes=False))
    assert table.hang_watch.loading == []
    table.open(A)
    assert table.hang_watch.loading == [""]
    table.turn(1, LoadFailed(B, "it broke", may_retry=True))
    assert table.hang_watch.loading == ["", ""]


def test_jobs_of_a_model_that_may_be_loaded_later_wait(stage: Stage, table: Table) -> None:
    job_id = stage.submit(1, 5, B)
    table.turn(3, LoadFailed(B, "there is no memory", may_retry=True))
    assert stage.field(job_id, "state") == "queued"


def test_what_ends_a_waiting_job_ends_one_that_is_swapped_out(stage: Stage, table: Table) -> None:
    table.open(A)
    cancelled, late = stage.submit(1, 100, A), stage.submit(2, 100, A, deadline_s=600)
    table.turn(4)
    table.turn(0, leaving(A, finishes=False))
    assert stage.store.cancel(cancelled, "me") == "queued"
    stage.redis.zadd(f"omni:deadlines:{A}", {late: 1})
    Heartbeat(list(table.models.values())).beat()
    assert [stage.field(job_id, "code") for job_id in (cancelled, late)] == ["cancelled", "timeout"]
    numbers = [entry.seq for entry in stage.entries(cancelled)]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 2


def test_an_order_whose_message_was_lost_is_taken_with_the_next_report(stage: Stage, table: Table) -> None:
    table.turn()
    ShelfStore(stage.redis).order(Order(B, "load"))
    table.look()
    assert table.shelf.told == []
    table.swaps._report_at = 0.0
    table.look()
    assert table.shelf.told == [(B, "load", None)]


def test_an_order_for_a_model_of_another_worker_is_left_to_it(stage: Stage, table: Table) -> None:
    store = ShelfStore(stage.redis)
    store.order(Order("of-another", "load"))
    store.order(Order(B, "load"))
    table.models[B].inbox.order()
    table.swaps.advance()
    assert [order.queue for order in store.take_orders([A, B, "of-another"])] == ["of-another"]


def test_orders_and_keep_alive_reach_the_shelf(stage: Stage, table: Table) -> None:
    table.open(A)
    ShelfStore(stage.redis).order(Order(B, "pin", keep_alive_s=-1))
    table.models[B].inbox.order()
    job_id = stage.submit(1, 5, A, keep_alive_s=30.0)
    table.finish(job_id)
    table.turn()
    assert table.shelf.told == [(B, "pin", -1), (A, 30.0)]


def test_a_message_of_each_queue_reaches_its_model(stage: Stage, table: Table) -> None:
    """What Redis loses is found by the heartbeat: the cancel of a running job."""
    table.open(A, B)
    jobs = {queue: stage.submit(1, 1000, queue) for queue in (A, B)}
    table.turn(4)
    stage.store.cancel(jobs[B], "me")
    Heartbeat(list(table.models.values())).beat()
    table.turn(2)
    assert [stage.field(jobs[queue], "state") for queue in (A, B)] == ["running", "cancelled"]


def test_a_redis_that_is_away_during_a_pause_loses_nothing(
    stage: Stage, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    table.open(A)
    jobs = {stage.submit(seed, 20, A): (A, seed, 20) for seed in range(4)}
    table.turn(5)
    ledger, real, num_left = table.models[A].ledger, table.models[A].ledger.give_back, [2]

    def give_back(job_id: str) -> None:
        num_left[0] -= 1
        real(job_id)
        if num_left[0] == 0:
            raise RedisConnectionError("the reply was lost")

    monkeypatch.setattr(ledger, "give_back", give_back)
    with pytest.raises(RedisConnectionError):
        table.turn(0, leaving(A, finishes=False))
    assert table.shelf.gone == []
    table.look()
    assert table.shelf.gone == [A]
    table.open(A)
    table.finish(*jobs)
    table.turn()
    assert judged(stage, jobs) == []


def test_a_dead_worker_s_jobs_go_on_in_all_queues_and_only_the_step_that_it_died_in_is_blamed(stage: Stage) -> None:
    dead = Table(stage, (A, B, C))
    dead.open(A, B, C)
    jobs = {stage.submit(seed, 30, queue): (queue, seed, 30) for seed in range(3) for queue in (A, B, C)}
    dead.turn(20)
    dead.turn(0, leaving(C, finishes=False))
    for fence in dead.fences:
        bury(stage.redis, fence, is_blamed=fence == dead.models[A].ledger.fence)
    successor = Table(stage, (A, B, C), "two")
    crashes = {
        queue: [int(stage.field(job, "crashes")) for job in jobs if jobs[job][0] == queue] for queue in (A, B, C)
    }
    assert crashes == {A: [1] * 3, B: [0] * 3, C: [0] * 3}
    successor.open(A, B, C)
    successor.finish(*jobs)
    successor.turn()
    assert judged(stage, jobs) == []


def test_a_worker_that_leaves_gives_back_the_jobs_of_all_models(stage: Stage, table: Table) -> None:
    table.open(A, B)
    jobs = {stage.submit(1, 30, queue): (queue, 1, 30) for queue in (A, B)}
    table.turn(6)
    table.worker.register_birth()
    table.worker.leave()
    assert {stage.field(job_id, "state") for job_id in jobs} == {"queued"}
    assert stage.redis.zcard(keys.WORKERS) == 0 and ShelfStore(stage.redis).reports() == []
    successor = Table(stage, (A, B), "two")
    successor.open(A, B)
    successor.finish(*jobs)
    successor.turn()
    assert judged(stage, jobs) == []


def drop_the_log(patch: pytest.MonkeyPatch) -> None:
    real = Ledger.claim
    patch.setattr(Ledger, "claim", lambda *args: (claim := real(*args)) and replace(claim, logged={}))


def redraw(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(FakeEngine, "text_of", lambda self, running, position: f"{running.seed}/{id(self)}.{position} ")


@pytest.mark.parametrize("break_it", [drop_the_log, redraw])
def test_the_control_a_pause_that_drops_the_log_or_draws_anew_is_noticed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None]
) -> None:
    break_it(monkeypatch)
    table = Table(stage)
    table.open(A)
    jobs = {stage.submit(seed, 25, A): (A, seed, 25) for seed in range(2)}
    table.turn(6)
    table.turn(0, leaving(A, finishes=False))
    table.open(A)
    table.finish(*jobs)
    table.turn()
    assert judged(stage, jobs) != []


def test_swaps_are_counted(stage: Stage, table: Table) -> None:
    table.turn(1, replace(table.opened(A), reason="waiting", seconds=1.5))
    table.models[A].telemetry.report({})
    counted = read(stage.redis, A)
    assert counted["model_swaps|waiting"] == 1 and counted["model_swap_time:sum"] == 1_500_000


def test_a_model_that_is_not_served_is_reported_with_the_reason(stage: Stage, table: Table) -> None:
    table.swaps = Swaps(table.shelf, table.models, Event(), {C: "its files are not understood."})  # type: ignore[arg-type]
    table.turn()
    [report] = ShelfStore(stage.redis).reports()
    [entry] = [entry for entry in report.entries if entry.queue == C]
    assert (entry.status, entry.fault, entry.may_retry) == ("failed", "its files are not understood.", False)
