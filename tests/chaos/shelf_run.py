"""One run of a plan on a service with a table of models: swaps are forced, processes killed, everything judged."""

import asyncio
import random
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from tests.chaos.shelf_load import Ask, Callers
from tests.chaos.shelf_service import ADMIN, KEYS, TableService, victims
from tests.chaos.shelf_verdict import Verdict, judge, judge_redis
from tests.chaos.shelf_watch import Watch


@dataclass(frozen=True)
class Trouble:
    """What is done to the service while it works."""

    num_kills: int = 0  # of the worker
    num_others: int = 0  # of its template and of the keeper of weights
    swap_every_s: float = 0.0  # a load order for a model that is not loaded; 0: none
    seconds: float = 60.0  # over which these are spread
    seed: int = 1


@dataclass
class Outcome:
    """What came of a run."""

    verdict: Verdict
    watch: Watch
    seconds: float
    faults: Counter[str] = field(default_factory=Counter)
    orders: Counter[str] = field(default_factory=Counter)
    max_swap_wait_s: float = 0.0
    swap_s: list[float] = field(default_factory=list)  # measured: of each model, as the worker reports it at the end

    @property
    def bound_s(self) -> float:
        return self.max_swap_wait_s + max(self.swap_s, default=0.0)

    def rows(self) -> list[list[object]]:
        verdict, watch = self.verdict, self.watch
        gaps = verdict.gaps_s
        return [
            ["jobs", ", ".join(f"{number} {kind}" for kind, number in sorted(verdict.kinds.items()))],
            ["ends", ", ".join(f"{number} {end}" for end, number in sorted(verdict.ends.items()))],
            ["faults", ", ".join(f"{number} kill -9 of the {who}" for who, number in self.faults.items()) or "none"],
            ["orders", ", ".join(f"{number} {what}" for what, number in sorted(self.orders.items())) or "none"],
            ["lost, failed, doubled, different, hung", " ".join(str(len(found)) for found in (
                verdict.lost, verdict.failed, verdict.doubled, verdict.wrong, verdict.hung))],
            ["swaps", watch.num_swaps],
            ["streams that were told of a pause", verdict.num_paused],
            ["without any worker, s, of all kills", f"{watch.down_s:.1f}"],
            ["longest wait of a model without its turn while there was a worker, s",
                f"{watch.longest_wait_s():.1f} (bound {self.bound_s:.1f})"],
            ["the same, flex work alone, s", f"{watch.longest_wait_s(flex=True):.1f}"],
            ["TTFT of streaming chats, s", f"p50 {verdict.ttft(0.5):.2f}, p95 {verdict.ttft(0.95):.2f}, "
                f"max {verdict.ttft(1.0):.2f}"],
            ["longest gap of a stream, s", f"p50 {statistics.median(gaps or [0]):.2f}, max {max(gaps, default=0):.2f}"],
            ["swap, s, as measured by the worker", ", ".join(f"{value:.2f}" for value in self.swap_s)],
            ["seconds", f"{self.seconds:.0f}"],
        ]  # fmt: skip


def settings_of(max_loaded: int, max_swap_wait_s: float, **more: str) -> dict[str, str]:
    return {
        "OMNI_MAX_LOADED_MODELS": str(max_loaded),
        "OMNI_MAX_SWAP_WAIT": f"{max_swap_wait_s:g}",
        "OMNI_MAX_NUM_SEQS": "8",
        **more,
    }


class Troubler:
    """Forces swaps and kills processes, at even pauses."""

    def __init__(self, service: TableService, trouble: Trouble, watch: Watch) -> None:
        self.service = service
        self.trouble = trouble
        self.watch = watch
        self.faults: Counter[str] = Counter()
        self.orders: Counter[str] = Counter()

    async def kill(self) -> None:
        chosen = victims(self.trouble.num_kills, self.trouble.num_others, self.trouble.seed)
        if not chosen:
            return
        pause_s = self.trouble.seconds / (len(chosen) + 1)
        for role in chosen:
            await asyncio.sleep(pause_s)
            for _ in range(40):  # it may just be being replaced
                if await asyncio.to_thread(self.service.kill, role):
                    self.faults[role] += 1
                    break
                await asyncio.sleep(0.1)

    async def swap(self) -> None:
        if not self.trouble.swap_every_s:
            return
        chance = random.Random(self.trouble.seed)
        headers = {"Authorization": f"Bearer {ADMIN}"}
        async with aiohttp.ClientSession(self.service.url, headers=headers) as session:
            while True:
                await asyncio.sleep(self.trouble.swap_every_s)
                loaded = self.watch.loaded[-1][1] if self.watch.loaded else frozenset()
                others = [model for model in self.service.models if model not in loaded]
                if not others:
                    continue
                await self.order(session, chance.choice(others), "load")
                if loaded and chance.random() < 0.3:
                    await self.order(session, chance.choice(sorted(loaded)), "unload")

    async def order(self, session: aiohttp.ClientSession, model: str, action: str) -> None:
        async with session.post(f"/v1/models/{model}/{action}") as response:
            self.orders[action if response.status in (200, 202) else f"{action} refused with {response.status}"] += 1


def run(
    folder: Path,
    models: Mapping[str, Path],
    asks: list[Ask],
    texts: Mapping[int, str],
    trouble: Trouble,
    settings: Mapping[str, str],
    *,
    breaks: str = "",
    patience_s: float = 120.0,
) -> Outcome:
    folder.mkdir(parents=True, exist_ok=True)
    service = TableService(folder, models, settings, {"CHAOS_MUTATIONS": breaks} if breaks else None)
    try:
        service.start()
        watch = Watch(service.redis(), list(models)).start()
        troubler = Troubler(service, trouble, watch)
        callers = Callers(service.url, KEYS)
        started = time.monotonic()
        asyncio.run(callers.send(asks, patience_s, troubler.kill, troubler.swap))
        seconds = time.monotonic() - started
        watch.stop()
        verdict = judge(callers.answers, texts)
        judge_redis(verdict, callers.answers, service.redis(), list(models))
    finally:
        service.stop()
    swap_s = [float(entry["swap_in_s"]) for entry in watch.last.get("entries", ())]
    max_wait_s = float(settings.get("OMNI_MAX_SWAP_WAIT", 30))
    return Outcome(verdict, watch, seconds, troubler.faults, troubler.orders, max_wait_s, swap_s)
