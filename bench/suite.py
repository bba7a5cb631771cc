"""`make bench`: our service and any other servers, the same models, prompts, lengths, through HTTP, in one run.

    python -m bench.suite                                                    # ours alone, on each shape
    python -m bench.suite --peer 'vllm=vllm serve {folder} --served-model-name m --port {port}#m'   # by us, per shape
    python -m bench.suite --shape llama-150m --target other=http://127.0.0.1:8101/v1#m      # one that runs already

Closed loop at 1, 4, 16 and 64 streams, then arrivals at shares of what ours did at most. All servers of a shape run at
the same time and take turns at each level, so that a noisy machine is noisy for all. Tables, JSON and a picture land in
--out. Text after # is the model's id there.
"""

import argparse
import asyncio
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import load, models
from bench.pictures import Panel, draw
from bench.report import DEFAULT_FOLDER, load_average, machine, table, write_json
from bench.serve import end_on_sigterm, how_it_runs, our_service, peer

REST_S = 2.0  # between two turns: the threads of the one before spin on for a while, on the cores of the next
COLUMNS = (
    "target", "load", "requests", "errors", "tokens_s", "requests_s", "ttft_p50_ms", "ttft_p99_ms", "gap_p50_ms",
    "gap_p99_ms",
)  # fmt: skip
CLOSED, OPEN = "closed loop", "open loop"


@dataclass(frozen=True)
class Result:
    """One row of one shape, and how busy the machine was then."""

    shape: str
    kind: str
    level: load.Level
    load_average: float

    @property
    def load(self) -> float:
        """Streams, or arrivals a second."""
        return float(self.level.load.removeprefix("C=").removesuffix("/s"))


@contextmanager
def targets_of(shape: str, args: argparse.Namespace) -> Iterator[list[load.Target]]:
    """Ours and all others, ready to serve this shape."""
    with ExitStack() as stack:
        found = []
        if not args.without_ours:
            ours = stack.enter_context(our_service(args.models / shape, **dict(args.setting)))
            print(f"ours: ready after {ours.start_s:.1f} s", *how_it_runs(ours), sep="\n  ", flush=True)
            found.append(load.Target("ours", ours.url, shape, "sk-local"))
        for text in args.peer:
            name, _, command = text.partition("=")
            command, _, served = command.partition("#")
            url = stack.enter_context(peer(command, args.models / shape))
            found.append(load.Target(name, url, served or shape, "none"))
        found += [load.parse_target(text, shape, "sk-local") for text in args.target]
        yield found


async def run_levels(
    targets: Sequence[load.Target], plan: load.Plan, levels: Sequence[tuple[int, float]], shape: str
) -> list[Result]:
    """Each level of all targets in turn, `plan.repeat` times, there and back; the median run is kept.

    There and back, because who comes after a long turn of both cores finds the host slower.
    """
    results = []
    for number, (concurrency, rate) in enumerate(levels):
        runs: dict[str, list[load.Level]] = {target.name: [] for target in targets}
        for again in range(plan.repeat):
            for target in targets[:: (-1) ** again]:
                await asyncio.sleep(REST_S)
                runs[target.name].append(await load.run_level(target, plan, concurrency, rate, 1000 * number + again))
        kind = OPEN if rate else CLOSED
        results += [Result(shape, kind, load.median_of(found), load_average()) for found in runs.values()]
        for result in results[-len(targets) :]:
            print("| " + " | ".join(str(value) for value in values_of(result)) + " |", flush=True)
            if result.level.first_error:
                print(f"  first error: {result.level.first_error}", flush=True)
    return results


def values_of(result: Result) -> list[Any]:
    values = asdict(result.level)
    return [result.shape, *(values[name] for name in COLUMNS), result.load_average]


def measure(shape: str, args: argparse.Namespace) -> list[Result]:
    plan = load.Plan(args.words, args.tokens, args.rounds, 0, args.repeat)
    with targets_of(shape, args) as targets:
        asyncio.run(run_warm_up(targets, plan))
        results = asyncio.run(run_levels(targets, plan, [(streams, 0.0) for streams in args.concurrency], shape))
        most = max(result.level.requests_s for result in results if result.level.target == targets[0].name)
        rates = [round(most * part, 2) for part in args.rates]
        open_plan = load.Plan(args.words, args.tokens, 1, args.arrivals, 1)
        return results + asyncio.run(run_levels(targets, open_plan, [(0, rate) for rate in rates], shape))


async def run_warm_up(targets: Sequence[load.Target], plan: load.Plan) -> None:
    """Compilers, caches and thread pools wake up before the clock runs."""
    for target in targets:
        await load.run_level(target, load.Plan(plan.words, 8, 1, 16), 8, 0, 99)


def said(results: Sequence[Result]) -> str:
    """Markdown for docs/benchmarks.md."""
    parts = [machine()]
    for shape in dict.fromkeys(result.shape for result in results):
        for kind in (CLOSED, OPEN):
            rows = [values_of(result)[1:] for result in results if (result.shape, result.kind) == (shape, kind)]
            if rows:
                parts.append(f"**{shape}, {kind}**\n\n" + table([*COLUMNS, "load average"], rows))
    return "\n\n".join(parts) + "\n"


def pictured(results: Sequence[Result], folder: Path) -> None:
    """tokens/s and time to first token over the number of streams, one panel a shape."""
    panels = []
    for shape in dict.fromkeys(result.shape for result in results):
        for what, title in (("tokens_s", "tokens/s"), ("ttft_p99_ms", "TTFT p99, ms")):
            lines: dict[str, list[tuple[float, float]]] = {}
            for result in results:
                if (result.shape, result.kind) == (shape, CLOSED):
                    point = (result.load, getattr(result.level, what))
                    lines.setdefault(result.level.target, []).append(point)
            panels.append(Panel(shape, "streams", title, lines))
    draw(panels, folder / "benchmarks.png", machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", default=list(models.SHAPES))
    parser.add_argument("--models", type=Path, default=DEFAULT_FOLDER / "models", help="made here if missing")
    parser.add_argument("--target", action="append", default=[], help="name=base url[#model]; use one --shape")
    parser.add_argument("--peer", action="append", default=[], help="name=command with {port}, {folder}, {model}[#id]")
    parser.add_argument("--without-ours", action="store_true")
    parser.add_argument(
        "--setting", action="append", default=[], type=lambda text: text.split("=", 1), help="of ours: OMNI_THREADS=2"
    )
    parser.add_argument(
        "-c", "--concurrency", type=lambda text: [int(part) for part in text.split(",")], default=[1, 4, 16, 64]
    )
    parser.add_argument(
        "--rates", type=float, nargs="*", default=[0.25, 0.5, 0.8], help="shares of our most requests/s"
    )
    parser.add_argument("--arrivals", type=int, default=32, help="requests per rate")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--words", type=int, default=95)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--out", type=Path, default=DEFAULT_FOLDER)
    args = parser.parse_args()
    end_on_sigterm()
    models.ensure(args.models, args.shape)
    print(machine(), flush=True)
    results = [result for shape in args.shape for result in measure(shape, args)]
    write_json(args.out / "suite.json", [asdict(result) for result in results])
    (args.out / "suite.md").write_text(said(results))
    pictured(results, args.out)
    print("\n" + said(results) + f"\nwritten to {args.out}")


if __name__ == "__main__":
    main()
