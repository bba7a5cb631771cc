"""Tokens per second of the engine alone: no HTTP, no queue. python -m bench.engine MODEL [MODEL...]

Closed loop: as many requests at a time as `--concurrency` says, random prompts, greedy, ends ignored.
"""

import argparse
import base64
import io
import random
import statistics
import time

from PIL import Image

from common.wire import Delta, Finished, GenerationRequest, SamplingParams
from worker.engine import Engine
from worker.loader import EngineConfig, load
from worker.vision import ImageReader

SIDE = 336  # pixels of a picture


def measure(
    engine: Engine,
    concurrency: int,
    num_requests: int,
    num_prompt: int,
    num_output: int,
    images: ImageReader | None = None,
) -> dict[str, float]:
    """One closed-loop run; with `images` each prompt begins with a new one. Times in milliseconds, tokens/s over the
    whole run, prompts included."""
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
            words = (rng.randrange(5, vocab_size) for _ in range(num_prompt))
            prompt = tuple(word - 1 if images is not None and word == images.token_id else word for word in words)
            sampling = SamplingParams(max_tokens=num_output, seed=0, temperature=0.0, ignore_eos=True)
            seen = (noise(rng),) if images is not None else ()
            begin = (images.token_id,) if images is not None else ()
            submitted[request_id] = time.perf_counter()
            engine.add(GenerationRequest(request_id, "bench", begin + prompt, sampling, images=seen))
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


def noise(rng: random.Random) -> str:
    """A picture that nobody has seen before, as a data URL."""
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
    parser.add_argument("--quantize", choices=["int8", "int4", "fp8"], default=None)
    parser.add_argument("--speculate", type=int, default=0)
    parser.add_argument("--image", action="store_true", help="begin each prompt with one, for a model of images")
    args = parser.parse_args()
    config = EngineConfig(
        threads=args.threads, dtype=args.dtype, quantize=args.quantize, speculate=args.speculate, max_num_seqs=64
    )
    print("| model | streams | tokens/s | first token p50 ms | gap p50 ms | gap p99 ms |\n|---|---|---|---|---|---|")
    for path in args.models:
        loaded = load(path, ("bench",), config, lambda stage, fraction: None)
        engine = Engine(loaded, config)
        images = loaded.images if args.image else None
        measure(engine, 1, 1, args.prompt, 4, images)
        for concurrency in (int(text) for text in args.concurrency.split(",")):
            num_requests = max(2, concurrency * args.rounds)
            row = measure(engine, concurrency, num_requests, args.prompt, args.output, images)
            name = path.rstrip("/").rsplit("/", 1)[-1]
            print(
                f"| {name} | {concurrency} | " + " | ".join(f"{value:.1f}" for value in row.values()) + " |", flush=True
            )


if __name__ == "__main__":
    main()
