"""Tokens that a successor of a dead worker computes again, with and without its keys and values.

    python -m bench.takeover --shape llama-150m

An engine is left in the middle of its answers, as `kill -9` leaves it; another one continues them from their logs.
"""

import argparse
import random
import time
from pathlib import Path

from bench import models
from bench.report import DEFAULT_FOLDER, load_average, machine, table
from common.process.keeper.supervised import KeeperProcess
from common.wire import Delta, GenerationRequest, LoggedChoice, SamplingParams
from worker.engine.engine import Engine
from worker.kept.keep import Keep
from worker.models.loader import EngineConfig, load

PROMPT, LOGGED, ANSWER = 512, 128, 256  # tokens


def opened(folder: Path, config: EngineConfig, keep: Keep | None) -> Engine:
    engine = Engine(load(str(folder), ("bench",), config, lambda what, share: None, keep), config)
    engine.warm_up(lambda what, share: None)
    return engine


def requests(num: int) -> list[GenerationRequest]:
    chances = random.Random(0)
    sampling = SamplingParams(max_tokens=ANSWER, seed=0, temperature=0.0, ignore_eos=True)
    return [
        GenerationRequest(str(number), "bench", tuple(chances.randrange(4, 8000) for _ in range(PROMPT)), sampling)
        for number in range(num)
    ]


def logs_of(engine: Engine, asked: list[GenerationRequest]) -> dict[str, LoggedChoice]:
    """What is logged when all have LOGGED tokens."""
    logs = {request.id: LoggedChoice() for request in asked}
    for request in asked:
        engine.add(request)
    while min(len(log.token_ids) for log in logs.values()) < LOGGED:
        for request_id, event in engine.step():
            assert isinstance(event, Delta)
            before = logs[request_id]
            logs[request_id] = LoggedChoice(before.token_ids + event.token_ids, before.text + event.text)
    return logs


def resumed(engine: Engine, asked: list[GenerationRequest], logs: dict[str, LoggedChoice]) -> tuple[int, float]:
    """Tokens computed again, and seconds until each answer has its next token."""
    started = time.perf_counter()
    for request in asked:
        engine.add(request, {0: logs[request.id]})
    waiting = {request.id for request in asked}
    while waiting:
        waiting -= {request_id for request_id, _ in engine.step()}
    return engine.stats().recomputed_tokens, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=DEFAULT_FOLDER / "models")
    parser.add_argument("--shape", default="llama-150m", choices=models.SHAPES)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    models.ensure(args.models, [args.shape])
    folder, config, asked = args.models / args.shape, EngineConfig(threads=args.threads), requests(args.streams)
    keeper = KeeperProcess()
    keeper.tick()
    keep = Keep(keeper.door_fd)
    rows: list[list[object]] = []
    left = opened(folder, config, keep)
    logs = logs_of(left, asked)
    for finds_kv in (False, True):
        tokens, seconds = resumed(opened(folder, config, keep if finds_kv else None), asked, logs)
        rows.append(["kept" if finds_kv else "gone with the worker", tokens, f"{seconds:.2f}", load_average()])
    keeper.end()
    print(machine())
    print(table(["keys and values", "tokens computed again", "s", "load average"], rows))


if __name__ == "__main__":
    main()
