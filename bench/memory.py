"""Memory and the time to be ready: `python -m bench.memory [--shape tiny llama-150m llama-05b]`.

KV: what a token takes of this process when prompts are read, against layers x heads x (key + value) x bytes; the cache
comes from untouched pages, so memory is taken as blocks are used. Service: seconds from start to a healthy answer, and
each process's share of memory (shared pages divided among those who share them), idle and after a burst.
"""

import argparse
import asyncio
import gc
import multiprocessing
import random
from pathlib import Path

import psutil

from bench import load as load_generator
from bench import models
from bench.report import DEFAULT_FOLDER, load_average, machine, table, write_json
from bench.serve import Ours, end_on_sigterm, our_service
from common.wire import GenerationRequest, SamplingParams
from worker.engine.engine import Engine
from worker.models.loader import EngineConfig, load

PROMPT = 1024
KV_COLUMNS = (
    "shape",
    "tokens",
    "KV bytes/token by arithmetic",
    "measured",
    "measured / arithmetic",
    "KV blocks there are",
)
SERVICE_COLUMNS = (
    "shape", "ready after s", "worker MiB", "API MiB", "Valkey MiB", "supervisors and gunicorn MiB",
    "after a burst: worker", "API", "Valkey", "load average",
)  # fmt: skip


def resident() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


def read_prompts(engine: Engine, num_prompts: int, first: int) -> None:
    """Prompts that share nothing; their blocks stay in the cache."""
    rng = random.Random(first)
    for number in range(first, first + num_prompts):
        prompt = tuple(rng.randrange(4, engine.card.vocab_size) for _ in range(PROMPT))
        sampling = SamplingParams(max_tokens=1, seed=0, temperature=0.0, ignore_eos=True)
        engine.add(GenerationRequest(f"r{number}", "bench", prompt, sampling))
    while engine.has_work:
        engine.step()


def kv(model: Path, num_tokens: int, threads: int | None) -> tuple[object, ...]:
    """One row. Runs in a process of its own."""
    config = EngineConfig(kv_memory_bytes=4 * 2**30, threads=threads, max_model_len=4096)
    engine = Engine(load(str(model), ("bench",), config, lambda what, share: None), config)
    cache = engine.runner.kv_cache
    expected = sum(shape.token_bytes(cache.keys[0].dtype) for shape in cache.shapes)
    read_prompts(engine, 1, 0)  # buffers of the step itself
    before = resident()
    read_prompts(engine, num_tokens // PROMPT, 1)
    measured = (resident() - before) / (num_tokens // PROMPT * PROMPT)
    return model.name, num_tokens, expected, int(measured), measured / expected, cache.pool.num_blocks


def pss_mib(process: psutil.Process) -> float:
    info = process.memory_full_info()
    return float(getattr(info, "pss", info.rss) / 2**20)


def processes_of(ours: Ours) -> dict[str, float]:
    """MiB of the three that work, and of all others together."""
    found = {name: pss_mib(ours.process(name)) for name in ("worker", "api", "redis")}
    working = {ours.process(name).pid for name in found}
    roots = [psutil.Process(process.pid) for process in ours.service.processes.values()]
    everyone = [one for root in roots for one in (root, *root.children(recursive=True))]
    return found | {"others": sum(pss_mib(one) for one in everyone if one.pid not in working)}


def service(model: Path, threads: str, streams: int) -> tuple[object, ...]:
    with our_service(model, OMNI_THREADS=threads) as ours:
        idle = processes_of(ours)
        target = load_generator.Target("ours", ours.url, ours.model, "sk-local")
        plan = load_generator.Plan(tokens=16, requests=streams)
        level = asyncio.run(load_generator.run_level(target, plan, streams, 0, 1))
        if level.errors:
            raise RuntimeError(level.first_error)
        after = processes_of(ours)
        busy = [after[name] for name in ("worker", "api", "redis")]
        return model.name, ours.start_s, *idle.values(), *busy, load_average()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, default=DEFAULT_FOLDER / "models")
    parser.add_argument("--shape", nargs="+", default=list(models.SHAPES))
    parser.add_argument("--tokens", type=int, default=16_384, help="read into the cache")
    parser.add_argument("--streams", type=int, default=64, help="of the burst")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--only", choices=["kv", "service"])
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER / "memory.json")
    args = parser.parse_args()
    end_on_sigterm()
    models.ensure(args.models, args.shape)
    print(machine(), flush=True)
    folders = [args.models / name for name in args.shape]
    rows: list[tuple[object, ...]] = []
    lines: list[tuple[object, ...]] = []
    if args.only != "service":
        jobs = [(folder, args.tokens, args.threads) for folder in folders]
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for job in jobs:
                rows.append(pool.apply(kv, job))
                print(table(KV_COLUMNS, rows[-1:]), flush=True)
    if args.only != "kv":
        for folder in folders:
            lines.append(service(folder, str(args.threads or ""), args.streams))
            print(table(SERVICE_COLUMNS, lines[-1:]), flush=True)
    print("\n" + table(KV_COLUMNS, rows) + "\n\n" + table(SERVICE_COLUMNS, lines))
    write_json(args.out, {"kv": rows, "service": lines})


if __name__ == "__main__":
    main()
