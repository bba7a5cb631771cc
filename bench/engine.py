"""Tokens per second of the engine alone: no HTTP, no queue. python -m bench.engine MODEL [MODEL...]

Closed loop: as many requests at a time as `--concurrency` says, random prompts, greedy, ends ignored.
"""

import argparse
import random
import statistics
import time

from common.wire import Delta, Finished, GenerationRequest, SamplingParams
from worker.engine import Engine
from worker.loader import EngineConfig, load


def measure(engine: Engine, concurrency: int, num_requests: int, num_prompt: int, num_output: int) -> dict[str, float]:
    """One closed-loop run. Times in milliseconds, tokens/s over the whole run, prompts included."""
    rng = random.Random(concurrency)
    vocab_size = engine.card.vocab_size
    submitted: dict[str, float] = {}
    last_seen: dict[str, float] = {}
    first_ms: list[float] = []
    gaps_ms: list[float] = []
    num_tokens = num_done = 0
    started = time.perf_counter()
    while num_done < num_requests:
        while len(submitted) < min(num_requests, num_done + concurrency):
            request_id = f"{concurrency}-{len(submitted)}"
            prompt = tuple(rng.randrange(4, vocab_size) for _ in range(num_prompt))
            sampling = SamplingParams(max_tokens=num_output, seed=0, temperature=0.0, ignore_eos=True)
            submitted[request_id] = time.perf_counter()
            engine.add(GenerationRequest(request_id, "bench", prompt, sampling))
        events = engine.step()
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
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--concurrency", default="1,4,16,64")
    parser.add_argument("--prompt", type=int, default=165, help="tokens")
    parser.add_argument("--output", type=int, default=64, help="tokens")
    parser.add_argument("--rounds", type=int, default=1, help="requests of each stream")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantize", choices=["int8", "int4", "fp8"], default=None)
    parser.add_argument("--speculate", type=int, default=0)
    args = parser.parse_args()
    config = EngineConfig(
        threads=args.threads, dtype=args.dtype, quantize=args.quantize, speculate=args.speculate, max_num_seqs=64
    )
    print("| model | streams | tokens/s | first token p50 ms | gap p50 ms | gap p99 ms |\n|---|---|---|---|---|---|")
    for path in args.models:
        engine = Engine(load(path, ("bench",), config, lambda stage, fraction: None), config)
        measure(engine, 1, 1, args.prompt, 4)
        for concurrency in (int(text) for text in args.concurrency.split(",")):
            num_requests = max(2, concurrency * args.rounds)
            row = measure(engine, concurrency, num_requests, args.prompt, args.output)
            name = path.rstrip("/").rsplit("/", 1)[-1]
            print(
                f"| {name} | {concurrency} | " + " | ".join(f"{value:.1f}" for value in row.values()) + " |", flush=True
            )


if __name__ == "__main__":
    main()
