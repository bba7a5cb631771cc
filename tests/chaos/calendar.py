"""Many requests for later, while everything is killed: each is admitted once, and none is missed.

python -m tests.chaos.calendar --jobs 1000 --kills 30 --seconds 60
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil
from redis.exceptions import RedisError

from tests.chaos.campaign import COMPILER, fake_clock
from tests.chaos.harness import KEYS, Harness, Options, running, wait_until

NUM_TOKENS = 3


@dataclass
class Calendar:
    """`num_jobs` requests whose times lie within `seconds`; `num_kills` deaths and clock jumps in between."""

    num_jobs: int
    num_kills: int
    seconds: float
    seed: int = 1
    mutations: tuple[str, ...] = ()
    times: dict[str, float] = field(default_factory=dict)  # job -> its not_before
    faults: Counter[str] = field(default_factory=Counter)

    def put(self, harness: Harness) -> None:
        """Enqueue all requests; the first is due when the last is in."""
        begin = time.time() + self.num_jobs / 150 + 2
        headers = {"Authorization": f"Bearer {KEYS[0]}"}
        with httpx2.Client(base_url=harness.url, headers=headers, timeout=30) as http:
            for number in range(self.num_jobs):
                then = begin + self.seconds * number / self.num_jobs
                body = {
                    "model": harness.queue,
                    "messages": [{"role": "user", "content": "x"}],
                    "seed": number,
                    "max_tokens": NUM_TOKENS,
                    "background": True,
                    "not_before": round(then, 3),
                }
                answer = http.post("/v1/chat/completions", json=body, headers={"Idempotency-Key": f"k{number}"})
                self.times[answer.json()["id"]] = then

    def harm(self, harness: Harness, clock: Path | None) -> None:
        """Kill a worker, the API's processes or Valkey, or move the hosts' clocks, at even pauses."""
        chance = random.Random(self.seed)
        kinds: list[Callable[[], object]] = [
            lambda: kill_worker(harness),
            lambda: kill_api(harness),
            lambda: restart_valkey(harness),
        ]
        for number in range(self.num_kills):
            kind = kinds[number % len(kinds)]
            kind()
            self.faults[("worker", "api", "redis")[number % len(kinds)]] += 1
            if clock is not None:
                clock.write_text(str(chance.choice((-3600, 0, 0, 3600))))
            time.sleep(self.seconds / self.num_kills)
        if clock is not None:
            clock.write_text("0")

    def verdicts(self, harness: Harness) -> list[str]:
        """What is wrong; empty when each job ran once, not before its time, with the right text."""
        wrong = []
        for job_id, then in self.times.items():
            job = harness.job(job_id)
            rows = harness.redis.xlen(f"omni:log:{job_id}")
            if job.get("state") != "finished":
                wrong.append(f"{job_id}: {job.get('state')} {job.get('code')}")
            elif rows != NUM_TOKENS + 1:
                wrong.append(f"{job_id}: {rows} log entries instead of {NUM_TOKENS + 1}")
            elif int(job["first_claimed"]) / 1000 < then - 0.001:
                wrong.append(f"{job_id}: claimed {then - int(job['first_claimed']) / 1000:.3f} s before its time")
        for key in ("later", "waiting", "backlog"):
            if left := harness.redis.exists(f"omni:{key}:{harness.queue}"):
                wrong.append(f"omni:{key} still holds something ({left})")
        return wrong


def kill_worker(harness: Harness) -> None:
    try:
        harness.kill_worker()
    except (IndexError, StopIteration, psutil.Error, RuntimeError):
        return  # it is being replaced


def kill_api(harness: Harness) -> None:
    for process in harness.api_processes():
        process.send_signal(signal.SIGKILL)


def restart_valkey(harness: Harness) -> None:
    harness.kill_valkey()
    harness.start_valkey()


def has_ended(calendar: Calendar, harness: Harness) -> bool:
    try:
        return all(harness.state(job_id) in ("finished", "failed", "cancelled") for job_id in calendar.times)
    except RedisError:
        return False


def run(calendar: Calendar, wait_s: float = 60.0) -> list[str]:
    folder = Path(tempfile.mkdtemp(prefix="omni-clock-"))
    environment = fake_clock(folder) if COMPILER else {}
    options = Options(
        step_s=0.001, max_queue=10_000, mutations=calendar.mutations, environment=environment, through_proxy=False
    )
    try:
        with running(options) as harness:
            calendar.put(harness)
            calendar.harm(harness, folder / "clock" if COMPILER else None)
            try:
                wait_until(lambda: has_ended(calendar, harness), wait_s)
            except TimeoutError:
                pass
            return calendar.verdicts(harness)
    finally:
        shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--break", dest="mutations", action="append", default=[])
    args = parser.parse_args()
    calendar = Calendar(args.jobs, args.kills, args.seconds, mutations=tuple(args.mutations))
    wrong = run(calendar)
    print(f"{len(calendar.times)} jobs, deaths {dict(calendar.faults)}: {len(wrong)} wrong")
    print("\n".join(wrong[:20]))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
