"""Measures the input of bench.simulate: python -m bench.service_times ~/.cache/omni-bench/models/llama-150m

The engine: milliseconds of a prompt, and of a decode step as a line through its batches. Valkey: microseconds of its
one thread for a job (submit, claim, end), a step's append, each row in it, and a worker's heartbeat.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from redis import Redis

from api.jobs.generation import rq_job
from bench.queue_model import MEASURED
from bench.report import load_average, machine
from common.process.valkey_seams import server_path
from common.redis.connection import connect
from common.redis.store import Store
from common.redis.submission import Submission
from common.wire import Delta, Finished, GenerationRequest, SamplingParams
from worker.engine.engine import Engine
from worker.jobs.ledger import Ledger
from worker.jobs.publisher import Publisher
from worker.models.loader import EngineConfig, load

PROMPT = 165
NUM_STEPS = 24
NUM_JOBS = 2000
NUM_APPENDS = 1000


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Value at 0 and slope of the straight line nearest to the points."""
    slope, start = np.polyfit([x for x, _ in points], [y for _, y in points], 1)
    return float(start), float(slope)


def quartile(times: Sequence[float]) -> float:
    """The first quartile, because other work on the machine only makes times longer."""
    return sorted(times)[len(times) // 4]


def engine_times(model: str, batches: Sequence[int]) -> dict[str, float]:
    config = EngineConfig(max_num_seqs=max(batches))
    loaded = load(model, ("bench",), config, lambda what, share: None)
    engine = Engine(loaded, config)
    steps, prompts = [], []
    rng = np.random.default_rng(1)
    for batch in batches:
        for number in range(batch):
            prompt = tuple(rng.integers(10, loaded.card.vocab_size, PROMPT).tolist())
            sampling = SamplingParams(max_tokens=4000, seed=number, ignore_eos=True)
            began = time.perf_counter()
            engine.add(GenerationRequest(f"{batch}-{number}", "bench", prompt, sampling))
            while not any(event for event in engine.step() if event[0] == f"{batch}-{number}"):
                pass
            if batch == batches[0]:
                prompts.append((time.perf_counter() - began) * 1000)
        times = []
        for _ in range(NUM_STEPS):
            began = time.perf_counter()
            engine.step()
            times.append((time.perf_counter() - began) * 1000)
        steps.append((float(batch), quartile(times)))
        for number in range(batch):
            engine.cancel(f"{batch}-{number}")
    step_ms, row_ms = line(steps)
    return {"step_ms": step_ms, "row_ms": row_ms, "prefill_ms": quartile(prompts)}


def busy_us(redis: "Redis") -> float:
    """Processor time that the server has taken so far."""
    cpu = redis.info("cpu")
    return 1e6 * float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])


def redis_times(redis: "Redis") -> dict[str, float]:
    store, ledger = Store(redis, max_queue=NUM_JOBS), Ledger(redis, "bench", "bench")
    ledger.register()
    publisher = Publisher(redis, ledger.fence)
    began = busy_us(redis)
    ids = []
    for number in range(NUM_JOBS):
        request = GenerationRequest(f"job-{number}", "bench", tuple(range(PROMPT)), SamplingParams(200, number))
        store.submit(Submission(request, "bench", "me", "r", {}), rq_job(redis, request.id, "bench"))
    while (claim := ledger.claim(0)) is not None:
        ids.append(claim.request.id)
        publisher.open(claim.request.id, claim.num_entries, claim.is_suspect)
    job_us = busy_us(redis) - began
    appends = []
    for batch in (1, 16, 64):
        began = busy_us(redis)
        for _ in range(NUM_APPENDS):
            publisher.send([(job_id, Delta(0, (7,), " word")) for job_id in ids[:batch]])
            publisher.confirm()
        appends.append((float(batch), (busy_us(redis) - began) / NUM_APPENDS))
    began = busy_us(redis)
    for job_id in ids:
        publisher.send([(job_id, Finished(PROMPT, 200))])
        publisher.confirm()
    job_us = (job_us + busy_us(redis) - began) / NUM_JOBS
    began = busy_us(redis)
    for _ in range(NUM_APPENDS):
        ledger.renew({"state": "ready"})
        ledger.expire()
        ledger.reclaim()
    step_us, row_us = line(appends)
    beat_us = (busy_us(redis) - began) / NUM_APPENDS
    return {"job_us": job_us, "append_us": step_us, "row_us": row_us, "beat_us": beat_us}


def with_valkey() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "v.sock"
        command = [server_path(), "--port", "0", "--unixsocket", str(path), "--dir", folder]
        server = subprocess.Popen([*command, "--save", "", "--appendonly", "yes"], stdout=subprocess.DEVNULL)
        try:
            while not path.exists():
                time.sleep(0.01)
            return redis_times(connect(f"unix://{path}"))
        finally:
            server.terminate()
            server.wait(10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 16, 32, 64])
    parser.add_argument("--out", type=Path, default=MEASURED)
    args = parser.parse_args()
    measured = engine_times(args.model, args.batches) | with_valkey()
    record = {name: round(value, 3) for name, value in measured.items()}
    about = {"model": Path(args.model).name, "machine": machine(), "load_average": load_average()}
    args.out.write_text(json.dumps({**record, **about}, indent=1) + "\n")
    print(args.out.read_text())


if __name__ == "__main__":
    main()
