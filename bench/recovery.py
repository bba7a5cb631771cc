"""The pause of open streams after `kill -9` of the worker, and the memory of its template.

    python -m bench.recovery                    # the demo model, 16 streams, 10 kills of the worker, 3 of the template
    python -m bench.recovery --model FOLDER     # another model
    python -m bench.recovery --without-template # each worker starts from nothing
    python -m bench.recovery --model FOLDER --engine  # the engine alone, in this process: from files, and kept

Gap: the longest pause between two reads of any stream, from just before the kill on. Parts of it, from the kill: when
the supervisor says so, when the successor begins to load, when its weights are there (kept ones are mapped), when its
products are, when it serves, when every stream has gone on.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from bench.report import table
from tests.service import RunningService, is_template, worker_of
from worker.kept.keep import Keep
from worker.models.loader import EngineConfig
from worker.opening import open_engine

FLOW_S = 0.5  # of steady tokens before each kill
TIMEOUT_S = 120.0
NUM_TOKENS = 1500
NAME = "bench"  # that the model is served under
SAYS = {
    "seen": "worker ended with status",
    "forked": ": tokenizer (",
    "weights": "loaded ",
    "kernels": ": first step (",
    "serves": "Protocol OMNI serves",
}
STREAMS = "streams"  # the part until every stream has gone on


@dataclass
class Stream:
    """When its last text was read, and its longest pause since reset()."""

    last: float = 0.0
    longest_s: float = 0.0
    went_on: float = 0.0  # after its longest pause
    num_read: int = 0
    error: str = ""

    def read(self) -> None:
        now = time.time()
        if self.last and now - self.last > self.longest_s:
            self.longest_s, self.went_on = now - self.last, now
        self.last = now
        self.num_read += 1

    def reset(self) -> None:
        self.longest_s, self.went_on, self.num_read = 0.0, 0.0, 0


@dataclass
class Kill:
    """The times of one kill, in seconds."""

    gap_s: float
    parts_s: dict[str, float] = field(default_factory=dict)


async def follow(session: aiohttp.ClientSession, url: str, number: int, stream: Stream) -> None:
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": f"Story number {number}, please."}],
        "max_tokens": NUM_TOKENS, "stream": True, "ignore_eos": True, "seed": number,
    }  # fmt: skip
    headers = {"Authorization": "Bearer sk-local"}
    async with session.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
        if response.status != 200:
            stream.error = await response.text()
            return
        async for line in response.content:
            if line.startswith(b'data: {"error"'):
                stream.error = line.decode()
            elif line.startswith(b"data: {"):
                stream.read()


async def until(streams: Sequence[Stream], num_read: int) -> None:
    """Every stream has read so often since its reset. Raises TimeoutError, or RuntimeError for one that broke."""
    async with asyncio.timeout(TIMEOUT_S):
        while any(stream.num_read < num_read for stream in streams):
            if broken := [stream.error for stream in streams if stream.error]:
                raise RuntimeError(broken[0])
            await asyncio.sleep(0.005)


async def one_kill(service: RunningService, num_streams: int, victim: str) -> Kill:
    streams = [Stream() for _ in range(num_streams)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = [
            asyncio.create_task(follow(session, service.url, number, stream)) for number, stream in enumerate(streams)
        ]
        try:
            await until(streams, 5)
            await asyncio.sleep(FLOW_S)
            process = worker_of(service.processes["worker"].pid) if victim == "worker" else template_of(service)
            log_bytes = service.log_path.stat().st_size
            for stream in streams:
                stream.reset()
            killed = time.time()
            process.kill()
            await asyncio.sleep(FLOW_S)
            await until(streams, 20)
            found = parts(service, log_bytes, killed) | {STREAMS: max(stream.went_on for stream in streams) - killed}
            return Kill(max(stream.longest_s for stream in streams), found)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def template_of(service: RunningService) -> psutil.Process:
    [template] = [child for child in children(service) if is_template(child)]
    return template


def children(service: RunningService) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(service.processes["worker"].pid).children()
    return found


def parts(service: RunningService, log_bytes: int, killed: float) -> dict[str, float]:
    """Seconds from the kill to each of these lines of the service's log, in order."""
    found: dict[str, float] = {}
    for line in service.log_path.read_bytes()[log_bytes:].splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        for name, words in SAYS.items():
            if words in record.get("message", "") and name not in found:
                found[name] = datetime.fromisoformat(record["time"]).timestamp() - killed
    return found


async def wait_for_template(service: RunningService) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not any(child.name() == "omni-template" for child in children(service)):
            await asyncio.sleep(0.05)


async def measure(service: RunningService, args: argparse.Namespace) -> dict[str, list[Kill]]:
    kills: dict[str, list[Kill]] = {"worker": [], "template": []}
    for _ in range(args.kills):
        kills["worker"].append(await one_kill(service, args.streams, "worker"))
    for _ in range(0 if args.without_template else args.template_kills):
        kills["template"].append(await one_kill(service, args.streams, "template"))
        await wait_for_template(service)
    return kills


def memory(service: RunningService) -> list[list[Any]]:
    """MB of each worker process: resident, proportional share, private."""
    rows: list[list[Any]] = []
    for process in [psutil.Process(service.processes["worker"].pid), *children(service)]:
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
        sizes = {name: int(rest.split()[0]) / 1024 for name, _, rest in (line.partition(":") for line in lines)}
        name = process.name() if process.name().startswith("omni-") else "supervisor or worker"
        private = sizes["Private_Clean"] + sizes["Private_Dirty"]
        rows.append([name, *(round(value) for value in (sizes["Rss"], sizes["Pss"], private))])
    rows.append(["together", "", sum(row[2] for row in rows), ""])
    return rows


def print_kills(victim: str, kills: Sequence[Kill]) -> None:
    if not kills:
        return
    names = [name for name in (*SAYS, STREAMS) if any(name in kill.parts_s for kill in kills)]
    rows = [
        [number, f"{kill.gap_s:.3f}", *(f"{kill.parts_s[name]:.3f}" if name in kill.parts_s else "" for name in names)]
        for number, kill in enumerate(kills, 1)
    ]
    print(f"\nkill -9 of the {victim}, seconds\n\n" + table(["kill", "longest gap", *names], rows))
    gaps = [kill.gap_s for kill in kills]
    print(f"\np50 {statistics.median(gaps):.3f} s, max {max(gaps):.3f} s")


def print_engines(model: str) -> None:
    """Seconds until an engine is warm, from its files and from what was kept; the files are in the page cache."""
    keep, rows = Keep.none(), []
    for how, own in (("from its files", None), ("from its files, and kept", keep), ("restored", keep), ("again", keep)):
        begin = time.perf_counter()
        engine = open_engine(model, (NAME,), EngineConfig(max_num_seqs=16), lambda what, share: None, own)
        engine.warm_up(lambda what, share: None)
        rows.append([how, f"{time.perf_counter() - begin:.2f}", type(engine.runner).__name__])
        del engine
    print(table(["engine", "s", "runner"], rows))


class WithoutTemplate(RunningService):
    """Each worker is a process of its own."""

    @staticmethod
    def command(name: str, api_module: str = "api.server") -> list[str]:
        return [word for word in RunningService.command(name, api_module) if word != "--template"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench.recovery")
    parser.add_argument("--model", default="demo", help="a folder or hub id")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--template-kills", type=int, default=3)
    parser.add_argument("--without-template", action="store_true")
    parser.add_argument("--engine", action="store_true")
    args = parser.parse_args()
    if args.engine:
        print_engines(args.model)
        return 0
    kind = WithoutTemplate if args.without_template else RunningService
    with tempfile.TemporaryDirectory(prefix="omni-bench-") as folder:
        service = kind(Path(folder), {"OMNI_THREADS": "", "OMNI_MODEL": args.model, "OMNI_MODEL_NAME": NAME})
        try:
            service.start()
            print("MB after the start\n\n" + table(["process", "RSS", "PSS", "private"], memory(service)))
            kills = asyncio.run(measure(service, args))
            print("\nMB after the kills\n\n" + table(["process", "RSS", "PSS", "private"], memory(service)))
        finally:
            service.stop()
    for victim, seen in kills.items():
        print_kills(victim, seen)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
