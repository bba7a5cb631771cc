"""Models that leave a GPU for host memory and return: the part `shelf` of bench.gpu."""

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.gpu_bench import Bench, recorded_steps, why_fallback
from bench.gpu_model import SHAPES, as_loaded
from common.wire import Delta, GenerationRequest, SamplingParams
from worker.engine.engine import Engine
from worker.gpu_memory.arena import Arena, arena_of
from worker.models.loader import EngineConfig
from worker.shelf.warm.sleepers import Sleepers

NUM_TOKENS = {"8b": 32, "tiny": 6}
LENGTHS = {"8b": (5, 700, 64, 300), "tiny": (5, 40)}
KV_BYTES = {"8b": 8 * 2**30, "tiny": 2**18}
LINK_BYTES = {"8b": 2**30, "tiny": 2**20}
FEW_LAYERS = {"8b": 8, "tiny": 1}  # of the second model
ROUNDS = 3  # that the model leaves and returns
NAME = "weights:bench"


class Model:
    """An engine that can leave, and what it answers."""

    def __init__(self, bench: Bench, arena: Arena | None, num_layers: int | None = None) -> None:
        self.bench, self.arena, self.num_runs = bench, arena, 0
        loaded = as_loaded(bench.model(num_layers), bench.device, min(4096, bench.sizes.max_model_len))
        table = Path(tempfile.gettempdir()) / f"omni-bench-products-{os.getpid()}"  # the second model's are the first's
        config = EngineConfig(max_num_seqs=16, kv_memory_bytes=KV_BYTES[bench.shape], products_table=table)
        self.engine = Engine(replace(loaded, arena=arena), config)
        self.engine.warm_up(lambda what, share: None)
        rng = random.Random(1)
        words = SHAPES[bench.shape]["vocab_size"]
        self.prompts = [[rng.randrange(1, words) for _ in range(length)] for length in LENGTHS[bench.shape]]

    def answers(self, after_step: Callable[[], object] = lambda: None) -> list[list[int]]:
        """Greedy, of all prompts together, none of which is found in the cache."""
        self.num_runs += 1
        answers: list[list[int]] = [[] for _ in self.prompts]
        length = NUM_TOKENS[self.bench.shape]
        sampling = SamplingParams(max_tokens=length, seed=0, temperature=0.0, min_tokens=length)
        for at, prompt in enumerate(self.prompts):
            salt = str(self.num_runs)
            self.engine.add(GenerationRequest(str(at), "bench", tuple(prompt), sampling, cache_salt=salt))
        while self.engine.has_work:
            for request_id, event in self.engine.step():
                if isinstance(event, Delta):
                    answers[int(request_id)] += event.token_ids
            after_step()
        return answers


def swaps(bench: Bench) -> None:
    """One model leaves and returns; then two take turns; then keys and values change their size."""
    link = links(bench)
    arena = arena_of(bench.device)
    started = time.perf_counter()
    model = Model(bench, arena)
    bench.synchronize()
    report = bench.report
    report.say(f"{type(arena).__name__}, {why_fallback(model.engine) or 'recorded steps'}\n")
    report.number("shelf/cold s", time.perf_counter() - started, note="random weights: without reading files")
    expected = model.answers()
    compare(bench, "again, without leaving", model.answers(), expected)
    if not model.engine.sleeping.warm_bytes:
        report.say("weights leave a GPU only")
        return
    steps = list(map(id, recorded_steps(model.engine)))
    rounds(bench, model, expected, link)
    report.say(f"steps recorded again: {steps != list(map(id, recorded_steps(model.engine)))}")
    in_turns(bench, model, expected)
    if arena is not None and arena.is_elastic:
        elastic(bench, model, expected)
    model.engine.close()


def links(bench: Bench) -> tuple[float, float]:
    """Bytes per second from the card to locked host memory, and back."""
    if bench.device.type != "cuda":
        return 1e9, 1e9
    size = LINK_BYTES[bench.shape]
    here, there = torch.empty(size, dtype=torch.uint8, pin_memory=True), torch.empty(size, dtype=torch.uint8)
    there = there.to(bench.device)
    rates = []
    for name, to, of in (("to host", here, there), ("to card", there, here)):
        to.copy_(of, non_blocking=True)
        bench.synchronize()
        started = time.perf_counter()
        for _ in range(8):
            to.copy_(of, non_blocking=True)
        bench.synchronize()
        rates.append(8 * size / (time.perf_counter() - started))
        bench.report.number(f"shelf/link {name} GB/s", rates[-1] / 1e9)
        bench.report.say(f"the link {name}: {rates[-1] / 1e9:.1f} GB/s")
    return rates[0], rates[1]


def rounds(bench: Bench, model: Model, expected: list[list[int]], link: tuple[float, float]) -> None:
    """Seconds of leaving and returning. The first time host memory is taken and locked."""
    report, sleeping = bench.report, model.engine.sleeping
    size = sleeping.warm_bytes
    report.say(f"{size / 2**30:.2f} GiB of weights, {model.engine.kv_bytes / 2**30:.2f} GiB of keys and values\n")
    report.columns(
        "round", "left in s", "GiB free then", "returned in s", "GB/s", "of the link", "first tokens s", "same"
    )
    times = []
    for at in range(ROUNDS):
        before = free_bytes(bench)
        left, is_asleep = timed(bench, sleeping.sleep)
        assert is_asleep, "host memory has no room for the weights"
        freed = free_bytes(bench) - before
        returned, _ = timed(bench, lambda: sleeping.wake(None))
        first, _ = timed(bench, lambda: model.engine.warm_up(lambda what, share: None))
        share = size / returned / link[1]
        is_same = model.answers() == expected
        times.append(returned)
        report.row(
            at, f"{left:.3f}", f"{freed / 2**30:.2f}", f"{returned:.3f}", f"{size / returned / 1e9:.1f}",
            f"{share:.0%}", f"{first:.3f}", "yes" if is_same else "NO",
        )  # fmt: skip
        for name, value in (("left s", left), ("returned s", returned), ("share of link", share), ("same", is_same)):
            report.number(f"shelf/round {at}/{name}", float(value))
        report.number(f"shelf/round {at}/freed GiB", freed / 2**30)
    report.number("shelf/returned s", statistics.median(times))
    report.number(
        "shelf/returned GB/s", size / statistics.median(times) / 1e9, share=size / statistics.median(times) / link[1]
    )


def in_turns(bench: Bench, model: Model, expected: list[list[int]]) -> None:
    """A second model comes while the first is away, then both are there, their recorded steps in turn."""
    sleepers = Sleepers(2**40)
    sleepers.opened(NAME, model.engine)
    started = time.perf_counter()
    sleepers.part(NAME, model.engine)
    other = Model(bench, arena_of(bench.device), FEW_LAYERS[bench.shape])
    bench.synchronize()
    bench.report.number("shelf/second model s", time.perf_counter() - started)
    first = other.answers()
    sleepers.opened(f"{NAME}2", other.engine)
    sleepers.part(f"{NAME}2", other.engine)
    assert sleepers.wake(NAME, None) is model.engine
    compare(bench, "the first, after the second has left", model.answers(), expected)
    assert sleepers.wake(f"{NAME}2", None) is other.engine
    compare(bench, "the second, beside the first", other.answers(), first)
    other.engine.add(GenerationRequest("long", "bench", (1,), SamplingParams(max_tokens=200, seed=0, ignore_eos=True)))
    mixed = model.answers(after_step=other.engine.step)
    compare(bench, "the first, step by step beside the second", mixed, expected)
    other.engine.close()


def elastic(bench: Bench, model: Model, expected: list[list[int]]) -> None:
    """Keys and values get more and less memory while answers run."""
    demand, usual = model.engine.take_kv_demand(), model.engine.kv_bytes
    sizes = [max(demand.least_bytes, usual // 4), usual, max(demand.least_bytes, usual // 2), usual * 2, usual]
    times: list[tuple[int, float]] = []

    def resize() -> None:
        if sizes:
            size = sizes.pop(0)
            seconds, got = timed(bench, lambda: model.engine.resize_kv(size))
            times.append((got, seconds))

    compare(bench, "while the cache has other sizes", model.answers(resize), expected)
    for got, seconds in times:
        bench.report.say(f"{got / 2**30:.2f} GiB of keys and values after {seconds * 1e3:.1f} ms")
        bench.report.number("shelf/resized ms", seconds * 1e3, gib=got / 2**30)


def by_torch(bench: Bench) -> None:
    """As rounds(), by torch's allocator instead of addresses that stay: steps are recorded again."""
    link = links(bench)
    if arena_of(bench.device) is None:
        bench.report.number("shelf/by torch", 0)
        return
    model = Model(bench, Arena(bench.device), FEW_LAYERS[bench.shape])
    rounds(bench, model, model.answers(), link)
    model.engine.close()


def compare(bench: Bench, what: str, answers: list[list[int]], expected: list[list[int]]) -> None:
    pairs = [pair for got, want in zip(answers, expected, strict=True) for pair in zip(got, want, strict=True)]
    equal = sum(one == other for one, other in pairs)
    bench.report.say(f"{what}: {equal} of {len(pairs)} tokens the same{'' if equal == len(pairs) else ' WRONG'}")
    bench.report.number(f"shelf/{what}/equal share", equal / len(pairs))


def timed(bench: Bench, call: Callable[[], Any]) -> tuple[float, Any]:
    bench.synchronize()
    started = time.perf_counter()
    found = call()
    bench.synchronize()
    return time.perf_counter() - started, found


def free_bytes(bench: Bench) -> int:
    return int(torch.cuda.mem_get_info(bench.device)[0]) if bench.device.type == "cuda" else 0
