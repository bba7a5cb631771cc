"""The line, played in simulated time: how long do callers wait, and is it fair? Seeded: the same every time.

    python -m bench.simulate --workers 1,8,64 --clients 10,1000,100000
    python -m bench.simulate --workers 1 --clients 1001 --heavy 1000    # one key with 1,000 clients, one with one

Clients ask, wait for the answer, think, and ask again. A worker runs a batch: each sequence makes a token per step, and
a step takes `--step-ms` and `--row-ms` for each sequence in it. Places in line are given by the rule of submit.lua.
"""

import argparse
import heapq
import json
import random
from collections import Counter
from dataclasses import dataclass, field

REDIS_CALLS_PER_JOB = 10  # submit, claim, last row, look
REDIS_CALLS_PER_STEP = 1
CALLS_PER_S = 40_000  # that one Redis does, of our scripts


@dataclass(frozen=True, slots=True)
class Shape:
    """What is simulated. Times in ms."""

    num_workers: int
    num_clients: int
    max_num_seqs: int = 64
    step_ms: float = 12.0
    row_ms: float = 0.15
    prefill_ms: float = 40.0
    mean_tokens: float = 200.0
    think_ms: float = 20_000.0
    duration_ms: float = 600_000.0
    num_heavy: int = 0  # clients of one key; each other client has a key of its own when this is set
    max_queue: int = 1_000_000
    seed: int = 1


@dataclass(slots=True)
class Line:
    """Start-time fair queueing, as in submit.lua and claim.lua."""

    now: float = 0.0
    last: float = 0.0
    waiting: list[tuple[float, int, str, float]] = field(default_factory=list)
    ends: dict[str, float] = field(default_factory=dict)
    num_tickets: int = 0

    def put(self, owner: str, time: float) -> None:
        if not self.waiting:
            self.ends.clear()
            self.now = self.last
        tag = max(self.now, self.ends.get(owner, 0.0))
        self.ends[owner] = tag + 1
        self.last = max(self.last, tag + 1)
        self.num_tickets += 1
        heapq.heappush(self.waiting, (tag, self.num_tickets, owner, time))

    def take(self) -> tuple[str, float]:
        tag, _, owner, time = heapq.heappop(self.waiting)
        self.now = max(self.now, tag)
        return owner, time


@dataclass(slots=True)
class Outcome:
    waits: dict[str, list[float]]
    num_done: int
    num_refused: int
    redis_calls_per_s: float
    busy: float


class Simulation:
    """Events by time: a client asks, or a worker's sequence ends."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.random = random.Random(shape.seed)
        self.line = Line()
        self.events: list[tuple[float, int, str, int]] = []
        self.num_events = 0
        self.running = [0] * shape.num_workers
        self.waits: dict[str, list[float]] = {"heavy": [], "light": []}
        self.counts: Counter[str] = Counter()
        self.busy_ms = 0.0

    def run(self) -> Outcome:
        shape = self.shape
        for client in range(shape.num_clients):
            self.at(self.random.uniform(0, shape.think_ms), "ask", client)
        while self.events:
            time, _, kind, number = heapq.heappop(self.events)
            if time > shape.duration_ms:
                break
            if kind == "ask":
                self.ask(time, number)
            else:
                self.running[number] -= 1
                self.counts["done"] += 1
            self.admit(time)
        seconds = shape.duration_ms / 1000
        steps = self.busy_ms / shape.step_ms
        calls = self.counts["asked"] * REDIS_CALLS_PER_JOB + steps * REDIS_CALLS_PER_STEP
        busy = self.busy_ms / (shape.duration_ms * shape.num_workers)
        return Outcome(self.waits, self.counts["done"], self.counts["refused"], calls / seconds, min(busy, 1.0))

    def at(self, time: float, kind: str, number: int) -> None:
        self.num_events += 1
        heapq.heappush(self.events, (time, self.num_events, kind, number))

    def ask(self, time: float, client: int) -> None:
        """A client whose answer is long in coming asks late: its next request is set when it is admitted."""
        self.counts["asked"] += 1
        if len(self.line.waiting) >= self.shape.max_queue:
            self.counts["refused"] += 1
            self.at(time + self.random.expovariate(1 / self.shape.think_ms), "ask", client)
            return
        self.line.put(self.owner_of(client), time)

    def owner_of(self, client: int) -> str:
        return "heavy" if client < self.shape.num_heavy else f"light-{client}"

    def admit(self, time: float) -> None:
        """The emptiest worker takes the head of the line."""
        while self.line.waiting:
            worker = min(range(len(self.running)), key=self.running.__getitem__)
            if self.running[worker] >= self.shape.max_num_seqs:
                return
            owner, asked = self.line.take()
            self.waits["heavy" if owner == "heavy" else "light"].append(time - asked)
            self.running[worker] += 1
            self.serve(time, worker, owner)

    def serve(self, time: float, worker: int, owner: str) -> None:
        shape = self.shape
        num_tokens = max(1, round(self.random.expovariate(1 / shape.mean_tokens)))
        step_ms = shape.step_ms + shape.row_ms * self.running[worker]
        service_ms = shape.prefill_ms + num_tokens * step_ms
        self.busy_ms += num_tokens * shape.step_ms / max(1, self.running[worker])
        self.at(time + service_ms, "end", worker)
        client = int(owner.partition("-")[2]) if owner != "heavy" else self.random.randrange(self.shape.num_heavy)
        self.at(time + service_ms + self.random.expovariate(1 / shape.think_ms), "ask", client)


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def row_of(shape: Shape) -> dict[str, float | int | str]:
    """One line of the table. Times in seconds."""
    outcome = Simulation(shape).run()
    everyone = outcome.waits["heavy"] + outcome.waits["light"]
    row: dict[str, float | int | str] = {
        "workers": shape.num_workers,
        "clients": shape.num_clients,
        "done/s": round(outcome.num_done / shape.duration_ms * 1000, 1),
        "wait p50": round(quantile(everyone, 0.5) / 1000, 2),
        "wait p99": round(quantile(everyone, 0.99) / 1000, 2),
        "redis": f"{outcome.redis_calls_per_s / CALLS_PER_S:.0%}",
    }
    if shape.num_heavy:
        row["heavy p50"] = round(quantile(outcome.waits["heavy"], 0.5) / 1000, 2)
        row["light p50"] = round(quantile(outcome.waits["light"], 0.5) / 1000, 2)
        row["light max"] = round(quantile(outcome.waits["light"], 1.0) / 1000, 2)
    return row


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=numbers, default=[1, 8, 64])
    parser.add_argument("--clients", type=numbers, default=[10, 100, 1000, 10_000, 100_000])
    parser.add_argument("--heavy", type=int, default=0, help="so many of the clients share one key")
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--step-ms", type=float, default=12.0)
    parser.add_argument("--row-ms", type=float, default=0.15)
    parser.add_argument("--tokens", type=float, default=200.0)
    parser.add_argument("--think-s", type=float, default=20.0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", help="also write the rows here")
    args = parser.parse_args()
    rows = []
    for num_workers in args.workers:
        for num_clients in args.clients:
            shape = Shape(
                num_workers, num_clients, max_num_seqs=args.max_num_seqs, step_ms=args.step_ms, row_ms=args.row_ms,
                mean_tokens=args.tokens, think_ms=args.think_s * 1000, duration_ms=args.minutes * 60_000,
                num_heavy=args.heavy, seed=args.seed,
            )  # fmt: skip
            rows.append(row_of(shape))
            if len(rows) == 1:
                print("  ".join(f"{name:>9}" for name in rows[0]))
            print("  ".join(f"{value!s:>9}" for value in rows[-1].values()), flush=True)
    if args.json:
        with open(args.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
