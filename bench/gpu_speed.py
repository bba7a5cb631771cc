"""How fast the engine is on a GPU, how much memory it takes and how soon it is ready: the tables of bench.gpu."""

import gc
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch

from bench.engine import measure
from bench.gpu_model import CONTEXT, LONGEST, as_loaded, random_model
from bench.report import table
from bench.roofline import decoding, print_table, read_bandwidth, step_seconds, synchronize, weight_bytes
from worker.engine.engine import Engine
from worker.kernels.quantized import Fp8
from worker.models.loader import EngineConfig

GIB = 2**30
BATCHES = (1, 8, 32)
REPLAYS = 30
SAMPLINGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "greedy": {},
        "temperature": {"temperature": 1.0},
        "top_p 0.9": {"temperature": 1.0, "top_p": 0.9},
        "top_k 40": {"temperature": 1.0, "top_k": 40},
        "penalties": {"presence_penalty": 0.5, "repetition_penalty": 1.1},
        "5 logprobs": {"logprobs": 5},
    }
)


@contextmanager
def in_turn(engine: Engine) -> Iterator[None]:
    """No step of the engine overlaps another in here."""
    overlaps, engine.overlaps = engine.overlaps, False
    yield
    engine.overlaps = overlaps


class Speed:
    """One engine and its measurements. Each table is a method that needs no other."""

    def __init__(self, shape: str, device: torch.device) -> None:
        """Prints the time of each part of the start, and the memory after it."""
        started = time.perf_counter()
        self.shape, self.device = shape, device
        model = random_model(shape, device, torch.bfloat16)
        synchronize(device)
        self.weights = weight_bytes(model, "")
        numbers = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        loaded = time.perf_counter()
        self.engine = Engine(as_loaded(model, device, CONTEXT), EngineConfig(max_num_seqs=256))
        probed = time.perf_counter()
        self.engine.warm_up(lambda stage, share: None)
        warm = time.perf_counter()
        recorded = len(getattr(self.engine.runner, "steps", {}))
        print(
            f"{type(self.engine.runner).__name__}, {recorded} recorded steps, {self.engine.card.max_model_len} tokens"
        )
        print(
            f"weights made in {loaded - started:.1f} s, engine built in {probed - loaded:.1f} s (probe, compiler), ",
            end="",
        )
        print(f"warm after {warm - probed:.1f} s more (recordings)\n")
        self._print_memory(numbers)

    def _print_memory(self, weight_numbers: int) -> None:
        cache = self.engine.runner.kv_cache
        pools = sum(pool.numel() * pool.element_size() for pool in (*cache.keys, *cache.values))
        num_tokens = cache.pool.num_blocks * cache.block_size
        expected = sum(shape.width for shape in cache.shapes) * cache.keys[0].element_size()
        rows = [("weights", weight_numbers / GIB), ("KV cache", pools / GIB)]
        if self.device.type == "cuda":
            free, total = torch.cuda.mem_get_info(self.device)
            rows.append(("held by torch, graphs and all", torch.cuda.memory_reserved(self.device) / GIB))
            rows += [("free", free / GIB), ("of the GPU", total / GIB)]
        print(table(["", "GiB"], rows))
        print(f"\n{num_tokens} tokens of KV, {pools / num_tokens:.0f} bytes each; by arithmetic {expected}", flush=True)

    def roofline(self) -> None:
        """Steps of 1, 8 and 32 streams against the time that reading takes."""
        print_table(self.engine, self.weights, read_bandwidth(self.device), list(BATCHES), 1024)

    def shares(self) -> None:
        """The recorded part of a step and the rest, overlapped and in turn."""
        rows = []
        for batch in BATCHES:
            overlapped = step_seconds(self.engine, batch, 1024, num_steps=REPLAYS)
            with in_turn(self.engine):
                whole = step_seconds(self.engine, batch, 1024, num_steps=REPLAYS)
            shapes = [shape for shape in getattr(self.engine.runner, "steps", {}) if shape[0] == batch]
            for shape in sorted(shapes):
                alone = self._replay_seconds(self.engine.runner.steps[shape].replay)  # type: ignore[union-attr]
                rows.append((batch, shape[1], alone * 1e3, overlapped * 1e3, whole * 1e3))
        print(table(["streams", "blocks of the longest", "recording alone ms", "step overlapped ms", "in turn"], rows))

    def _replay_seconds(self, replay: Callable[[], torch.Tensor]) -> float:
        times = []
        for _ in range(REPLAYS):
            started = time.perf_counter()
            replay()
            synchronize(self.device)
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    def sampling(self) -> None:
        """A step of 32 streams by sampling parameters, and the number of waits for the GPU besides reading tokens."""
        rows = [
            (name, step_seconds(self.engine, 32, 512 + at, REPLAYS, **asked) * 1e3, self._waits(**asked))
            for at, (name, asked) in enumerate(SAMPLINGS.items())
        ]
        print(table(["32 streams", "ms a step", "waits a step"], rows))

    def _waits(self, **asked: Any) -> float:
        with decoding(self.engine, 32, 256, REPLAYS, **asked), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if self.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("warn")
            for _ in range(10):
                self.engine.step()
            if self.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
        return len([warning for warning in caught if "synchroniz" in str(warning.message)]) / 10

    def throughput(self) -> None:
        """Closed loop, prompts of 512 tokens and answers of 128."""
        rows = []
        for concurrency in (1, 8, 32, 64, 256):
            row = measure(self.engine, concurrency, 2 * concurrency, 512, 128)
            rows.append((concurrency, *list(row.values())[:4]))
        print(table(["streams", "tokens/s", "first token p50 ms", "gap p50 ms", "gap p99 ms"], rows))

    def growth(self) -> None:
        """Step time against batch and context, and the delay of others by a long prompt."""
        with in_turn(self.engine):  # else a step's time would be that of the one before
            self._growth()

    def _growth(self) -> None:
        from bench import growth  # it draws pictures elsewhere, with a library that a GPU machine may lack

        bench = growth.Bench(self.engine, time.perf_counter)
        batches = growth.by_batch(bench, growth.BATCHES, 24)
        print("\n" + table(["batch", "step ms", "x"], growth.with_growth(batches)), flush=True)
        longest = min(LONGEST, self.engine.card.max_model_len - growth.ROOM)
        chunks, decodes = growth.by_context(bench, longest, 24)
        size = self.engine.scheduler.max_step_tokens
        print("\n" + table(["tokens before", f"chunk of {size}, ms", "x"], growth.with_growth(chunks)))
        print(f"\n{longest} tokens read in {sum(ms for _, ms in chunks) / 1000:.2f} s, {len(chunks)} steps")
        print("\n" + table(["context", "decode step ms", "x"], growth.with_growth(decodes)), flush=True)
        gaps = growth.beside(bench, longest, 8)
        print("\n8 streams\n\n" + table(["", "gap p50 ms", "p99 ms", "max ms", "steps"], gaps))

    def fp8(self) -> None:
        """Steps with fp8 weights and with bf16 ones. The last table, because it frees the engine of the others."""
        Fp8().check("auto", self.device)
        plain = [step_seconds(self.engine, batch, 1024, REPLAYS) * 1e3 for batch in BATCHES]
        del self.engine
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        model = random_model(self.shape, self.device, torch.bfloat16)
        weights = weight_bytes(model, "fp8")
        engine = Engine(
            as_loaded(model, self.device, CONTEXT), EngineConfig(max_num_seqs=max(BATCHES), quantization=Fp8())
        )
        engine.warm_up(lambda stage, share: None)
        rounded = [step_seconds(engine, batch, 1024, REPLAYS) * 1e3 for batch in BATCHES]
        rows = [(batch, old, new, old / new) for batch, old, new in zip(BATCHES, plain, rounded, strict=True)]
        print(table(["streams", "bf16 ms a step", "fp8 ms a step", "times as fast"], rows))
        print(f"\n{weights / GIB:.2f} GiB of fp8 weights a step, {self.weights / GIB:.2f} of bf16")
