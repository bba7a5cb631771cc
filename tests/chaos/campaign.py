"""Load, faults and verdict: the run that `make chaos` and the 45-second test share."""

import asyncio
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.redis.metrics import read
from tests.chaos.checker import ENDED, Report, blame, check, told
from tests.chaos.client import Api, Client, History
from tests.chaos.faults import FAULTS, Fault, Injector, fill_disk, jump_clocks, undo
from tests.chaos.harness import KEYS, Harness, Options, running

COMPILER = shutil.which("cc") or shutil.which("gcc")
KINDS = ("stream", "stream", "stream", "drop", "poll", "cancel", "leave")


@dataclass
class Plan:
    """The parameters of one run."""

    seconds: float = 40.0
    seed: int = 1
    num_clients: int = 40
    num_keys: int = 1  # with 2, a quarter of the clients has the second: where places are few, jobs make room for them
    min_tokens: int = 20
    max_tokens: int = 200
    most_faults: int = 10**9
    pause_s: float = 1.0
    faults: dict[str, Fault] = field(default_factory=lambda: dict(FAULTS))
    options: Options = field(default_factory=lambda: Options(num_apis=2, num_workers=2))
    with_clock: bool = True
    with_disk: bool = True
    model: "Model" = field(default_factory=lambda: Model())
    doing: Callable[[], str] = lambda: "starting the service"  # what a run that does not end is waiting for


class Model:
    """The requests of clients and the expected answers. This one is for the weightless engine; demo.py has another."""

    def learn(self, harness: Harness) -> None:
        """Called when the service is up and nothing is broken yet."""

    def ask(self, plan: "Plan", random: random.Random) -> tuple[History, dict[str, Any] | None]:
        num_tokens = random.randint(plan.min_tokens, plan.max_tokens)
        return History(random.getrandbits(40), num_tokens, random.choice(KINDS)), None

    def expect(self, history: History) -> str:
        return told(history)


def small_disk(stack: ExitStack, megabytes: int) -> Path | None:
    """A file system of its own, or None where none can be mounted."""
    folder = Path(tempfile.mkdtemp(prefix="omni-disk-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=False)
    return folder


def fake_clock(folder: Path) -> dict[str, str]:
    """The environment in which a process's wall clock is off by the seconds in `folder`/clock. Needs a C compiler."""
    assert COMPILER is not None
    (folder / "clock").write_text("0")
    source = Path(__file__).with_name("clock.c")
    subprocess.run([COMPILER, "-shared", "-fPIC", "-o", str(folder / "clock.so"), str(source), "-ldl"], check=True)
    return {"LD_PRELOAD": str(folder / "clock.so"), "CHAOS_CLOCK": str(folder / "clock")}


class Load:
    """`num_clients` tasks, each of which starts one client after another until the run stops."""

    def __init__(self, plan: Plan, port: int) -> None:
        self.plan = plan
        self.apis = [Api(port, key) for key in KEYS]
        self.random = random.Random(plan.seed + 1)
        self.histories: list[History] = []
        self.is_stopping = False

    async def run(self) -> None:
        with_second = self.plan.num_clients // 4 if self.plan.num_keys > 1 else 0
        await asyncio.gather(*(self.lane(self.apis[at < with_second]) for at in range(self.plan.num_clients)))

    async def lane(self, api: Api) -> None:
        while not self.is_stopping:
            history, body = self.plan.model.ask(self.plan, self.random)
            self.histories.append(history)
            await self.live(api, history, body)

    async def live(self, api: Api, history: History, body: dict[str, Any] | None) -> None:
        some = self.random.randint(1, history.num_tokens)
        client = Client(api, history, drop_after=some if history.kind == "drop" else 0, body=body)
        if history.kind == "poll":
            await client.poll()
        elif history.kind == "cancel":
            await client.cancel(some)
        elif history.kind == "leave":
            await client.leave(some)
        else:
            await client.stream(background=True)


async def drive(plan: Plan, harness: Harness, load: Load) -> Injector:
    injector = Injector(harness, plan.seed, plan.pause_s)
    loading = asyncio.create_task(load.run())
    plan.doing = lambda: f"at the fault {injector.now}"
    await injector.run(plan.seconds, plan.faults, plan.most_faults)
    plan.doing = lambda: "waiting for the service after the faults"
    await asyncio.to_thread(undo, harness)
    load.is_stopping = True
    plan.doing = lambda: f"waiting for {sum(not h.is_done for h in load.histories)} clients"
    try:
        await asyncio.wait_for(loading, 90)
    except TimeoutError:
        print(f"{sum(not h.is_done for h in load.histories)} clients are still waiting; they are judged as they are")
    return injector


def settle(harness: Harness, histories: list[History], timeout_s: float = 45.0) -> None:
    """Wait until every accepted job has ended, up to a limit; the checker names those that have not."""
    deadline = time.monotonic() + timeout_s
    open_ids = {history.id for history in histories if history.id}
    while open_ids and time.monotonic() < deadline:
        open_ids = {job_id for job_id in open_ids if harness.state(job_id) not in ENDED}
        time.sleep(0.05)


def run(plan: Plan) -> Report:
    with ExitStack() as stack:
        if plan.with_disk and (disk := small_disk(stack, 3072 if plan.seconds > 120 else 256)) is not None:
            plan.options.data_dir = disk
            plan.faults["fill_disk"] = fill_disk
        if plan.with_clock and COMPILER:
            clock = Path(tempfile.mkdtemp(prefix="omni-clock-"))
            stack.callback(shutil.rmtree, clock, ignore_errors=True)
            plan.options.environment |= fake_clock(clock)
            plan.faults["jump_clocks"] = jump_clocks
        harness = stack.enter_context(running(plan.options))
        if "jump_clocks" in plan.faults:
            with suppress(OSError):
                os.symlink(clock / "clock", harness.folder / "clock")
        harness.take_pulse()
        plan.model.learn(harness)
        load = Load(plan, harness.port)
        began = time.monotonic()
        injector = asyncio.run(drive(plan, harness, load))
        plan.doing = lambda: "judging what was seen"
        settle(harness, load.histories)
        report = check(load.histories, harness.redis, harness.queue, plan.model.expect)
        blame(report, injector.done, harness.pulse())
        report.wrong += injector.wrong
        report.faults, report.seconds = injector.counts, time.monotonic() - began
        report.num_made_room = read(harness.redis, harness.queue).get("jobs_that_made_room", 0)
        if not report.is_clean or os.environ.get("CHAOS_KEEP"):
            keep = Path(tempfile.mkdtemp(prefix="omni-red-"))
            (keep / "logs").write_text(harness.logs())
            faults = [f"{time.time() - time.monotonic() + began:.1f} {name}" for began, _, name in injector.done]
            (keep / "faults").write_text("\n".join(faults))
            for path in (harness.folder / "pulse", harness.data_dir / "valkey.log"):
                shutil.copy(path, keep)
            (keep / "report").write_text(str(report))
            print(f"the logs of the run are in {keep}")
        return report
