"""The queue and its workers in simulated time. Seeded: the same every time.

Clients ask, wait for the answer, think, and ask again. A worker makes one token per step for each sequence that it
runs, and a step takes longer the more they are; a prompt makes all of them wait. The order of the queue is given by
submit.lua's rule.
"""

import heapq
import random
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).parent / "service_times.json"


@dataclass(frozen=True, slots=True)
class Shape:
    """Parameters of the simulated service. Times in ms."""

    num_workers: int
    num_clients: int
    max_num_seqs: int = 64
    step_ms: float = 12.0
    row_ms: float = 0.15  # more of a step for each sequence in it
    prefill_ms: float = 40.0
    mean_tokens: float = 200.0
    think_ms: float = 20_000.0
    duration_ms: float = 600_000.0
    num_heavy: int = 0  # clients of one key; each other client has a key of its own when this is set
    is_fair: bool = True  # False: first come, first served across all keys
    max_queue: int = 1_000_000
    seed: int = 1


@dataclass(slots=True)
class SimulatedQueue:
    """The owner served least is next, as in submit.lua and claim.lua. Full workers do not make room here."""

    is_fair: bool = True
    now: float = 0.0
    waiting: dict[str, deque[tuple[int, Any]]] = field(default_factory=dict)  # owner -> (ticket, what)
    served: dict[str, float] = field(default_factory=dict)  # owners that wait or run
    left: dict[str, float] = field(default_factory=dict)  # other owners
    places: Counter[str] = field(default_factory=Counter)
    num_tickets: int = 0
    num_waiting: int = 0

    def put(self, owner: str, what: Any) -> None:
        if not self.served:
            self.now = 0.0
            self.left.clear()
        if owner not in self.served:
            holders = [self.served[other] for other in self.places if other in self.served]
            self.served[owner] = max(min(holders, default=0.0), self.now, self.left.pop(owner, 0.0))
        self.num_tickets += 1
        self.num_waiting += 1
        self.waiting.setdefault(owner, deque()).append((self.num_tickets, what))

    def take(self, num_tokens: float = 1.0) -> tuple[str, Any]:
        """`num_tokens`: the tokens of the job in the end."""
        owner = min(self.waiting, key=self.due)
        _, what = self.waiting[owner].popleft()
        if not self.waiting[owner]:
            del self.waiting[owner]
        self.num_waiting -= 1
        self.now = max(self.now, self.served[owner])
        self.served[owner] += num_tokens
        self.places[owner] += 1
        return owner, what

    def due(self, owner: str) -> tuple[float, int]:
        ticket, _ = self.waiting[owner][0]
        level = round(self.served[owner] + min(0.9, self.places[owner] / 1000), 3)
        return (level if self.is_fair else 0.0), ticket

    def end(self, owner: str) -> None:
        """One of its jobs has ended."""
        self.places[owner] -= 1
        if not self.places[owner]:
            del self.places[owner]
            if owner not in self.waiting:
                self.left[owner] = self.served.pop(owner)


@dataclass(slots=True)
class Worker:
    """Counts its steps in `done`, whose speed depends on the batch; a sequence ends at a count."""

    shape: Shape
    ends: list[tuple[float, int, int]] = field(default_factory=list)  # (count, ticket, client)
    done: float = 0.0
    moved: float = 0.0  # when `done` was right
    num_rows: float = 0.0
    version: int = 0  # of the forecast of its next end

    @property
    def step_ms(self) -> float:
        return self.shape.step_ms + self.shape.row_ms * len(self.ends)

    def move(self, time: float) -> None:
        """Bring the count up to this moment; a prompt may have put the worker ahead of it."""
        if time > self.moved:
            num_steps = (time - self.moved) / self.step_ms if self.ends else 0.0
            self.done += num_steps
            self.num_rows += num_steps * len(self.ends)
            self.moved = time

    def take(self, time: float, num_tokens: int, ticket: int, client: int) -> None:
        self.move(time)
        self.moved += self.shape.prefill_ms
        heapq.heappush(self.ends, (self.done + num_tokens, ticket, client))
        self.version += 1

    def next_end(self) -> float:
        return self.moved + (self.ends[0][0] - self.done) * self.step_ms


@dataclass(slots=True)
class Outcome:
    waits: dict[str, list[float]]
    num_done: int
    num_refused: int
    num_asked: int
    num_steps: float
    num_rows: float


class Simulation:
    """Events by time: a client asks, or a worker's next sequence ends."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.random = random.Random(shape.seed)
        self.queue = SimulatedQueue(shape.is_fair)
        self.events: list[tuple[float, int, str, int, int]] = []
        self.num_events = 0
        self.workers = [Worker(shape) for _ in range(shape.num_workers)]
        self.free = [(0, number) for number in range(shape.num_workers)]  # (sequences, worker); old entries are skipped
        self.waits: dict[str, list[float]] = {"heavy": [], "light": []}
        self.counts: Counter[str] = Counter()

    def run(self) -> Outcome:
        shape = self.shape
        for client in range(shape.num_clients):
            self.at(self.random.uniform(0, shape.think_ms), "ask", client)
        while self.events:
            time, _, kind, number, version = heapq.heappop(self.events)
            if time > shape.duration_ms:
                break
            if kind == "ask":
                self.ask(time, number)
            elif self.workers[number].version == version:
                self.end(time, number)
            else:
                continue
            self.admit(time)
        steps, rows = (sum(getattr(worker, name) for worker in self.workers) for name in ("done", "num_rows"))
        return Outcome(self.waits, self.counts["done"], self.counts["refused"], self.counts["asked"], steps, rows)

    def at(self, time: float, kind: str, number: int, version: int = 0) -> None:
        self.num_events += 1
        heapq.heappush(self.events, (time, self.num_events, kind, number, version))

    def ask(self, time: float, client: int) -> None:
        self.counts["asked"] += 1
        if self.queue.num_waiting >= self.shape.max_queue:
            self.counts["refused"] += 1
            self.think(time, client)
            return
        self.queue.put(self.owner_of(client), (time, client))

    def think(self, time: float, client: int) -> None:
        self.at(time + self.random.expovariate(1 / self.shape.think_ms), "ask", client)

    def owner_of(self, client: int) -> str:
        return "heavy" if client < self.shape.num_heavy else f"light-{client}"

    def admit(self, time: float) -> None:
        """The emptiest worker takes the head of the queue."""
        while self.queue.waiting:
            num_running, number = self.free[0]
            worker = self.workers[number]
            if num_running != len(worker.ends):
                heapq.heapreplace(self.free, (len(worker.ends), number))
                continue
            if num_running >= self.shape.max_num_seqs:
                return
            num_tokens = max(1, round(self.random.expovariate(1 / self.shape.mean_tokens)))
            owner, (asked, client) = self.queue.take(num_tokens)
            self.waits["heavy" if owner == "heavy" else "light"].append(time - asked)
            worker.take(time, num_tokens, self.num_events, client)
            heapq.heapreplace(self.free, (len(worker.ends), number))
            self.forecast(number)

    def end(self, time: float, number: int) -> None:
        worker = self.workers[number]
        worker.move(time)
        _, _, client = heapq.heappop(worker.ends)
        self.counts["done"] += 1
        self.queue.end(self.owner_of(client))
        worker.version += 1
        heapq.heappush(self.free, (len(worker.ends), number))
        if worker.ends:
            self.forecast(number)
        self.think(time, client)

    def forecast(self, number: int) -> None:
        worker = self.workers[number]
        self.at(worker.next_end(), "end", number, worker.version)
