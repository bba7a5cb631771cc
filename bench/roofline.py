"""Memory bandwidth of a decode step, as a share of the machine's. python -m bench.roofline MODEL [--quantize int8]

A step must read every weight that it multiplies with and the keys and values of every sequence, once. That many bytes
over the measured bandwidth is the shortest time it can take; the table says what share of a step's time that is.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from common.wire import GenerationRequest, SamplingParams
from worker.engine.engine import Engine
from worker.kernels.quantized import quantization_named
from worker.models.loader import EngineConfig, load
from worker.runners.recorded.native import NativeRunner

READ_BYTES = 2**30
BYTES_PER_WEIGHT = {"int8": 1.0, "int4": 0.5 + 4 / 32, "fp8": 1.0}  # int4 with a bf16 scale and zero for every 32


def seconds_of(run: Callable[[], object], device: torch.device, tries: int) -> list[float]:
    """Of each of several runs; on a GPU by its own clock, without the time that Python takes to launch them."""
    if device.type != "cuda":
        times = []
        for _ in range(tries):
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
        return times
    marks: list[Any] = [torch.cuda.Event(enable_timing=True) for _ in range(tries + 1)]  # type: ignore[no-untyped-call]
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) / 1e3 for before, after in zip(marks, marks[1:], strict=False)]


def read_bandwidth(device: torch.device, num_bytes: int = READ_BYTES) -> float:
    """Bytes per second of reading memory once, the best of several tries."""
    block = torch.ones(num_bytes // 4, device=device)
    return num_bytes / min(seconds_of(block.sum, device, 8))


def copy_bandwidth(device: torch.device, num_bytes: int) -> float:
    """Bytes per second of a copy, those read and those written."""
    block = torch.ones(num_bytes // 8, device=device)
    into = torch.empty_like(block)
    return num_bytes / min(seconds_of(lambda: into.copy_(block), device, 8))


def weight_bytes(model: Any, quantize: str) -> float:
    """Bytes of the weights that one step reads: all but the input embedding, of which it reads a row per token."""
    embedding = model.get_input_embeddings().weight
    is_tied = model.get_output_embeddings().weight is embedding
    numbers: int = sum(parameter.numel() for parameter in model.parameters())
    if not is_tied:
        numbers -= int(embedding.numel())
    each = BYTES_PER_WEIGHT[quantize] if quantize else float(embedding.element_size())
    return numbers * each


@contextmanager
def decoding(engine: Engine, batch: int, context: int, num_steps: int, **asked: Any) -> Iterator[None]:
    """Within this, `batch` sequences of about `context` tokens decode for `num_steps` steps, greedily by default."""
    room = engine.card.max_model_len - context  # the first ones decode while the last ones' prompts are read
    for at in range(batch):
        prompt = tuple((at * 7919 + token * 31) % (engine.card.vocab_size - 8) + 4 for token in range(context))
        usual = {"max_tokens": max(num_steps + batch + 8, room), "seed": 0, "temperature": 0.0, "ignore_eos": True}
        sampling = SamplingParams(**(usual | asked))
        engine.add(GenerationRequest(f"roofline-{batch}-{at}", "bench", prompt, sampling))
    while sum(sequence.is_decoding for sequence in engine.scheduler.running) < batch:
        assert engine.has_work, f"{batch} sequences of {context} tokens do not run together"
        engine.step()
    yield
    for at in range(batch):
        engine.cancel(f"roofline-{batch}-{at}")


def step_times(engine: Engine, batch: int, context: int, num_steps: int, **asked: Any) -> list[float]:
    """Seconds of each such step. Where steps overlap each is the longer of the GPU's time and Python's."""
    times = []
    with decoding(engine, batch, context, num_steps, **asked):
        for _ in range(num_steps):
            started = time.perf_counter()
            engine.step()
            times.append(time.perf_counter() - started)
    return times


def step_seconds(engine: Engine, batch: int, context: int, num_steps: int, **asked: Any) -> float:
    """Their median."""
    return statistics.median(step_times(engine, batch, context, num_steps, **asked))


def kv_bytes(engine: Engine) -> int:
    """Of keys and values, a token of context."""
    cache = engine.runner.kv_cache
    return sum(shape.token_bytes(cache.keys[0].dtype) for shape in cache.shapes)


def print_table(engine: Engine, weights: float, bandwidth: float, batches: list[int], context: int) -> None:
    each = kv_bytes(engine) * context
    print(f"weights {weights / 1e6:.0f} MB, KV {each / 1e6:.1f} MB a sequence, {bandwidth / 1e9:.0f} GB/s\n")
    print("| streams | ms a step | tokens/s | ms at the bandwidth | share |\n|---|---|---|---|---|")
    for batch in batches:
        seconds = step_seconds(engine, batch, context, num_steps=30)
        least = (weights + batch * each) / bandwidth
        figures = f"{seconds * 1e3:.2f} | {batch / seconds:.0f} | {least * 1e3:.2f} | {least / seconds:.0%}"
        print(f"| {batch} | {figures} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--context", type=int, default=256, help="tokens")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--unrecorded", action="store_true", help="on a CPU: each kernel is called from Python")
    parser.add_argument("--quantize", choices=["int8", "int4", "fp8"], default="")
    args = parser.parse_args()
    config = EngineConfig(threads=args.threads, quantization=quantization_named(args.quantize), max_num_seqs=64)
    loaded = load(args.model, ("bench",), config, lambda stage, fraction: None)
    weights = weight_bytes(loaded.model, args.quantize)  # before the engine packs them
    engine = Engine(loaded, config)
    engine.warm_up(lambda stage, fraction: None)
    if args.unrecorded and isinstance(engine.runner, NativeRunner):
        engine.runner.steps = None
    batches = [int(text) for text in args.batches.split(",")]
    print_table(engine, weights, read_bandwidth(loaded.device), batches, args.context)


if __name__ == "__main__":
    main()
