"""The simulation follows the rule of the real queue, is reproducible, and shows the effect of fairness."""

import random

import pytest

from api.jobs.generation import rq_job
from bench.simulate import Shape, SimulatedQueue, Simulation, quantile, row_of
from common.redis.store import Store
from common.redis.submission import Submission
from common.wire import GenerationRequest, SamplingParams
from worker.jobs.ledger import Ledger


def test_the_simulated_queue_has_the_order_of_the_real_one(redis):
    """The same random submissions and claims, in Redis and in the simulation."""
    store, ledger = Store(redis), Ledger(redis, "sim", "w")
    ledger.register()
    queue, draw, served = SimulatedQueue(), random.Random(5), ([], [])
    for number in range(300):
        if draw.random() < 0.55:
            owner = draw.choice("aaaab")
            request = GenerationRequest(f"{owner}-{number}", "sim", (1,), SamplingParams(max_tokens=1, seed=1))
            store.submit(Submission(request, "sim", owner, "r", {}), rq_job(redis, request.id, "sim"))
            queue.put(owner, number)
        elif queue.waiting:
            served[0].append(queue.take())
            served[1].append(ledger.claim(0).request.id)
    assert [f"{owner}-{number}" for owner, number in served[0]] == served[1] and len(served[1]) > 90


def test_the_same_seed_gives_the_same_result():
    shape = Shape(2, 50, duration_ms=60_000)
    assert row_of(shape) == row_of(shape)


@pytest.mark.parametrize("num_heavy", [100, 1000])
def test_a_light_key_hardly_waits_for_a_heavy_one(num_heavy):
    shape = Shape(1, num_heavy + 1, max_num_seqs=16, num_heavy=num_heavy, think_ms=5000, duration_ms=300_000)
    waits = Simulation(shape).run().waits
    assert quantile(waits["light"], 0.5) < 1000
    assert quantile(waits["heavy"], 0.5) > 10 * quantile(waits["light"], 0.5)


def test_more_workers_raise_the_throughput():
    few, many = (row_of(Shape(num, 1000, duration_ms=120_000))["done/s"] for num in (1, 4))
    assert many > 1.5 * few
