"""Tokens per second of the engine alone: no HTTP, no queue. python -m bench.engine MODEL [MODEL...]

Closed loop: as many requests at a time as `--concurrency` says, random prompts, greedy, ends ignored.
With `--fit N` the KV cache holds N such sequences and no more; as many callers as fit, then four times as many.
"""

import argparse
import base64
import io
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from common.wire import Delta, Finished, GenerationRequest, SamplingParams
from worker.engine.engine import Engine
from worker.kernels.quantized import quantization_named
from worker.models.loader import EngineConfig, LoadedModel, load
from worker.models.vision import ImageProcessor

NUM_THREADS = torch.get_num_threads()
SIDE = 336  # pixels of a picture


def measure(
    engine: Engine,
    concurrency: int,
    num_requests: int,
    num_prompt: int,
    num_output: int,
    images: ImageProcessor | None = None,
    adapters: Sequence[str] = ("",),
) -> dict[str, float]:
    """One closed-loop run; with `images` each prompt begins with a new one; `adapters` take turns. Times in
    milliseconds, tokens/s over the whole run, prompts included."""
    rng = random.Random(concurrency)
    vocab_size = engine.card.vocab_size
    submitted: dict[str, float] = {}
    last_seen: dict[str, float] = {}
    first_ms: list[float] = []
    gaps_ms: list[float] = []
    num_tokens = num_done = most = 0
    started = time.perf_counter()
    while num_done < num_requests:
        while len(submitted) < min(num_requests, num_done + concurrency):
            request_id = f"{concurrency}-{len(submitted)}"
            words = (rng.randrange(5, vocab_size) for _ in range(num_prompt))
            prompt = tuple(word - 1 if images is not None and word == images.token_id else word for word in words)
            sampling = SamplingParams(max_tokens=num_output, seed=0, temperature=0.0, ignore_eos=True)
            seen = (noise(rng),) if images is not None else ()
            begin = (images.token_id,) if images is not None else ()
            adapter = adapters[len(submitted) % len(adapters)]
            submitted[request_id] = time.perf_counter()
            engine.add(GenerationRequest(request_id, "bench", begin + prompt, sampling, images=seen, adapter=adapter))
        events = engine.step()
        most = max(most, engine.stats().num_running)
        now = time.perf_counter()
        for request_id, event in events:
            if isinstance(event, Delta):
                num_tokens += len(event.token_ids)
                if request_id in last_seen:
                    gaps_ms.append((now - last_seen[request_id]) * 1e3)
                else:
                    first_ms.append((now - submitted[request_id]) * 1e3)
                last_seen[request_id] = now
            else:
                assert isinstance(event, Finished), event
                num_done += 1
    elapsed = time.perf_counter() - started
    return {
        "tokens/s": num_tokens / elapsed,
        "first p50": statistics.median(first_ms),
        "gap p50": statistics.median(gaps_ms),
        "gap p99": sorted(gaps_ms)[int(len(gaps_ms) * 0.99)],
        "most": most,
    }


def loaded_again(path: str, config: EngineConfig) -> LoadedModel:
    """A model loaded as in a new process: the one before may have set torch's number of threads."""
    torch.set_num_threads(NUM_THREADS)
    return load(path, ("bench",), config, lambda stage, fraction: None)


def measure_tight(path: str, config: EngineConfig, args: argparse.Namespace) -> None:
    """Throughput with a KV cache that holds `--fit` sequences: with that many callers, and with four times as many."""
    cache = Engine(loaded_again(path, config), config).runner.kv_cache
    width = sum(keys[0, 0].nbytes + values[0, 0].nbytes for keys, values in zip(cache.keys, cache.values, strict=True))
    heads = cache.shapes[0].num_kv_heads
    num_blocks = args.fit * cache.num_blocks_for(args.prompt + args.output)
    tight = replace(config, kv_memory_bytes=num_blocks * width * heads, max_num_seqs=8 * args.fit)
    engine = Engine(loaded_again(path, tight), tight)
    print(f"{engine.runner.kv_cache.pool.num_blocks} blocks")
    print("| callers | tokens/s | preempted | most that ran |\n|---|---|---|---|")
    for concurrency in (args.fit, 4 * args.fit, args.fit, 4 * args.fit):
        before = engine.stats().num_preemptions
        row = measure(engine, concurrency, 4 * args.fit * args.rounds, args.prompt, args.output)
        preempted = engine.stats().num_preemptions - before
        print(f"| {concurrency} | {row['tokens/s']:.1f} | {preempted} | {row['most']:.0f} |", flush=True)


def noise(rng: random.Random) -> str:
    """A picture of random pixels, as a data URL."""
    from PIL import Image  # a GPU machine may lack it

    data = io.BytesIO()
    Image.frombytes("RGB", (SIDE, SIDE), rng.randbytes(3 * SIDE * SIDE)).save(data, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--concurrency", default="1,4,16,64")
    parser.add_argument("--prompt", type=int, default=165, help="tokens")
    parser.add_argument("--output", type=int, default=64, help="tokens")
    parser.add_argument("--rounds", type=int, default=1, help="requests of each stream")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantize", choices=["int8", "int4", "fp8"], default="")
    parser.add_argument("--speculate", type=int, default=0)
    parser.add_argument("--image", action="store_true", help="begin each prompt with one, for a model of images")
    parser.add_argument("--fit", type=int, default=0, help="sequences that the KV cache holds")
    args = parser.parse_args()
    config = EngineConfig(
        threads=args.threads,
        dtype=args.dtype,
        quantization=quantization_named(args.quantize),
        speculate=args.speculate,
        max_num_seqs=64,
    )
    if args.fit:
        for path in args.models:
            measure_tight(path, config, args)
        return
    print("| model | streams | tokens/s | first token p50 ms | gap p50 ms | gap p99 ms |\n|---|---|---|---|---|---|")
    for path in args.models:
        loaded = loaded_again(path, config)
        engine = Engine(loaded, config)
        images = loaded.images if args.image else None
        measure(engine, 1, 1, args.prompt, 4, images)
        for concurrency in (int(text) for text in args.concurrency.split(",")):
            num_requests = max(2, concurrency * args.rounds)
            row = measure(engine, concurrency, num_requests, args.prompt, args.output, images)
            name = path.rstrip("/").rsplit("/", 1)[-1]
            figures = " | ".join(f"{value:.1f}" for value in list(row.values())[:4])
            print(f"| {name} | {concurrency} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
