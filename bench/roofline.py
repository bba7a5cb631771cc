"""Memory bandwidth of a decode step, as a share of the machine's. python -m bench.roofline MODEL [--quantize int8]

A step must read every weight that it multiplies with and the keys and values of every sequence, once. That many bytes
over the measured bandwidth is the shortest time it can take; the table says what share of a step's time that is.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from common.wire import GenerationRequest, SamplingParams
from worker.engine.engine import Engine
from worker.kernels.quantized import quantization_named
from worker.models.loader import EngineConfig, load

READ_BYTES = 2**30
BYTES_PER_WEIGHT = {"int8": 1.0, "int4": 0.5 + 4 / 32, "fp8": 1.0}  # int4 with a bf16 scale and zero for every 32


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def read_bandwidth(device: torch.device) -> float:
    """Bytes per second of reading memory once, the best of several tries."""
    block = torch.ones(READ_BYTES // 4, device=device)
    best = float("inf")
    for _ in range(8):
        started = time.perf_counter()
        block.sum()
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return READ_BYTES / best


def weight_bytes(model: Any, quantize: str) -> float:
    """Bytes of the weights that one step reads: all but the input embedding, of which it reads a row per token."""
    embedding = model.get_input_embeddings().weight
    is_tied = model.get_output_embeddings().weight is embedding
    numbers = sum(parameter.numel() for parameter in model.parameters())
    if not is_tied:
        numbers -= embedding.numel()
    return numbers * (BYTES_PER_WEIGHT[quantize] if quantize else embedding.element_size())


@contextmanager
def decoding(engine: Engine, batch: int, context: int, num_steps: int, **asked: Any) -> Iterator[None]:
    """Within this, `batch` sequences of about `context` tokens decode for `num_steps` steps, greedily by default."""
    for at in range(batch):
        prompt = tuple((at * 7919 + token * 31) % (engine.card.vocab_size - 8) + 4 for token in range(context))
        usual = {"max_tokens": num_steps + batch + 8, "seed": 0, "temperature": 0.0, "ignore_eos": True}
        sampling = SamplingParams(**(usual | asked))
        engine.add(GenerationRequest(f"roofline-{batch}-{at}", "bench", prompt, sampling))
    while sum(sequence.is_decoding for sequence in engine.scheduler.running) < batch:
        engine.step()
    yield
    for at in range(batch):
        engine.cancel(f"roofline-{batch}-{at}")


def step_seconds(engine: Engine, batch: int, context: int, num_steps: int, **asked: Any) -> float:
    """Median time of such a step. Where steps overlap it is the longer of the GPU's time and Python's."""
    times = []
    with decoding(engine, batch, context, num_steps, **asked):
        for _ in range(num_steps):
            started = time.perf_counter()
            engine.step()
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def print_table(engine: Engine, weights: float, bandwidth: float, batches: list[int], context: int) -> None:
    cache = engine.runner.kv_cache
    kv_bytes = sum(shape.width for shape in cache.shapes) * cache.keys[0].element_size() * context
    print(f"weights {weights / 1e6:.0f} MB, KV {kv_bytes / 1e6:.1f} MB a sequence, {bandwidth / 1e9:.0f} GB/s\n")
    print("| streams | ms a step | tokens/s | ms at the bandwidth | share |\n|---|---|---|---|---|")
    for batch in batches:
        seconds = step_seconds(engine, batch, context, num_steps=30)
        least = (weights + batch * kv_bytes) / bandwidth
        figures = f"{seconds * 1e3:.2f} | {batch / seconds:.0f} | {least * 1e3:.2f} | {least / seconds:.0%}"
        print(f"| {batch} | {figures} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--context", type=int, default=256, help="tokens")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--quantize", choices=["int8", "int4", "fp8"], default="")
    args = parser.parse_args()
    config = EngineConfig(threads=args.threads, quantization=quantization_named(args.quantize), max_num_seqs=64)
    loaded = load(args.model, ("bench",), config, lambda stage, fraction: None)
    weights = weight_bytes(loaded.model, args.quantize)  # before the engine packs them
    engine = Engine(loaded, config)
    engine.warm_up(lambda stage, fraction: None)
    batches = [int(text) for text in args.batches.split(",")]
    print_table(engine, weights, read_bandwidth(loaded.device), batches, args.context)


if __name__ == "__main__":
    main()
