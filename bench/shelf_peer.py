"""The same plan on llama.cpp's router (`llama-server` without a model, `--models-max 1`) and on the service."""

import argparse
import asyncio
import os
import random
import subprocess
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import aiohttp
import httpx2
import psutil

from bench.report import percentile, table
from tests.chaos.shelf_load import Ask, Callers, plan
from tests.chaos.shelf_run import Trouble, run, settings_of
from tests.chaos.shelf_service import KEYS, undisturbed
from tests.chaos.shelf_verdict import Verdict, judge
from tests.service import free_port

PATIENCE_S = 120.0


class Router:
    """llama.cpp's router with the models of one folder, one loaded at a time."""

    def __init__(self, binary: str, folder: Path, gguf: Path, threads: int) -> None:
        self.port = free_port()
        self.log = folder / "router.log"
        command = [
            binary, "--models-dir", str(gguf), "--models-max", "1", "--host", "127.0.0.1", "--port", str(self.port),
            "-t", str(threads), "-tb", str(threads), "-np", "8", "-c", "8192", "--no-warmup",
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        self.kills = 0
        self.loads: set[tuple[str, str]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait_healthy(self) -> None:
        for _ in range(600):
            with suppress(httpx2.HTTPError):
                if httpx2.get(f"{self.url}/health", timeout=2).status_code == 200:
                    return
            time.sleep(0.1)
        raise TimeoutError(self.log.read_text()[-3000:])

    def kill_model(self) -> None:
        for child in psutil.Process(self.process.pid).children():
            child.kill()
            self.kills += 1

    @property
    def num_swaps(self) -> int:
        """Model processes that were started, less the first."""
        return max(0, self.log.read_text(errors="replace").count("spawning server instance with name=") - 1)

    def stop(self) -> None:
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)


async def swaps(router: Router, models: list[str], every_s: float, seed: int) -> None:
    """Unload what is loaded and load another: a load alone is refused there while the loaded model is busy."""
    chance = random.Random(seed)
    async with aiohttp.ClientSession(router.url) as session:
        while True:
            await asyncio.sleep(every_s)
            with suppress(aiohttp.ClientError):
                async with session.get("/models") as response:
                    listed = {model["id"]: model["status"]["value"] for model in (await response.json())["data"]}
                for model in (name for name, status in listed.items() if status == "loaded"):
                    async with session.post("/models/unload", json={"model": model}):
                        pass
                others = [name for name in models if listed.get(name) != "loaded"]
                async with session.post("/models/load", json={"model": chance.choice(others)}):
                    pass


async def one_kill(router: Router, after_s: float) -> None:
    await asyncio.sleep(after_s)
    router.kill_model()


def on_router(
    args: argparse.Namespace, asks: list[Ask], models: list[str], folder: Path, every_s: float, kills: int
) -> tuple[Verdict, int, float]:
    folder.mkdir()
    router = Router(args.peer, folder, args.gguf, args.threads)
    others: list[Callable[[], Awaitable[None]]] = []
    if every_s:
        others.append(partial(swaps, router, models, every_s, args.seed))
    if kills:
        others.append(partial(one_kill, router, args.seconds / 2))
    try:
        router.wait_healthy()
        callers = Callers(router.url, KEYS, ours=False)
        started = time.monotonic()
        asyncio.run(callers.send(asks, PATIENCE_S, *others))
        return judge(callers.answers), router.num_swaps, time.monotonic() - started
    finally:
        router.stop()


def beside(args: argparse.Namespace, models: Mapping[str, Path], folder: Path) -> bool:
    """One table: here and there; on demand only, with forced swaps, and with a kill of what computes."""
    asks, texts = undisturbed(models, plan(list(models), args.jobs, args.seconds, args.seed))
    rows: list[list[object]] = []
    is_clean = True
    for number, (every_s, kills) in enumerate(((0.0, 0), (args.swap_every, 0), (args.swap_every, 1))):
        trouble_words = f"every {every_s:g} s" if every_s else "on demand"
        verdict, num_swaps, seconds = on_router(args, asks, list(models), folder / f"there-{number}", every_s, kills)
        rows.append(["llama.cpp's router", trouble_words, kills, *cells(verdict, num_swaps, seconds)])
        print(sentences(verdict), flush=True)
        trouble = Trouble(kills, 0, every_s, args.seconds, args.seed)
        settings = settings_of(1, args.max_swap_wait, OMNI_THREADS=str(args.threads))
        outcome = run(folder / f"here-{number}", models, asks, texts, trouble, settings, patience_s=PATIENCE_S)
        rows.append(
            ["Protocol OMNI", trouble_words, kills, *cells(outcome.verdict, outcome.watch.num_swaps, outcome.seconds)]
        )
        print(sentences(outcome.verdict), flush=True)
        is_clean = is_clean and outcome.verdict.is_clean
    heads = ["server", "swaps", "kills", "jobs", "failed or broken", "hung", "swaps seen"]
    print(table([*heads, "TTFT p50 s", "p95", "max", "longest gap s", "seconds"], rows))
    return is_clean


def cells(verdict: Verdict, num_swaps: int, seconds: float) -> list[object]:
    broken = len(verdict.lost) + len(verdict.failed) + len(verdict.wrong) + len(verdict.doubled)
    waits = [f"{percentile(verdict.ttft_s, share):.1f}" for share in (0.5, 0.95, 1.0)]
    return [
        verdict.num_jobs,
        broken,
        len(verdict.hung),
        num_swaps,
        *waits,
        f"{max(verdict.gaps_s, default=0):.1f}",
        f"{seconds:.0f}",
    ]


def sentences(verdict: Verdict) -> str:
    return "\n".join(f"  ! {sentence}" for sentence in verdict.all[:12])
