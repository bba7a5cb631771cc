"""Simulates loads of 2 to 10 models on a device that holds one: python -m bench.swaps

The service's own policy (worker/shelf/policy.py) beside two others that people know:
- in the order of arrival: a request whose model is not loaded waits until the running answers have ended, and all that
  come later wait behind it, whatever is loaded (Ollama, which unloads the model that was idle longest, and llama-swap);
- until nothing is left: what is loaded stays while it has anything to do; then comes the longest wait.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from bench.pictures import Panel, draw
from bench.swap_model import Device, Job, Model, Policy, Simulation
from worker.shelf.policy import decide, leaving, swap
from worker.shelf.view import Decision, ModelView, ShelfView, Stay

NUM_MODELS = (2, 3, 4, 6, 8, 10)
NUM_KEYS = 8
TICK_S = 0.1
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "swaps.png"


def in_order_of_arrival(view: ShelfView) -> Decision:
    first = oldest(view)
    if first is None or first.is_loaded:
        return Stay("")
    return swap(first, leaving(view, first), "finish", "")


def until_nothing_is_left(view: ShelfView) -> Decision:
    first = oldest(replace(view, models=tuple(model for model in view.models if not model.is_loaded)))
    if first is None or any(model.waiting.jobs or model.running.answers for model in view.models if model.is_loaded):
        return Stay("")
    return swap(first, leaving(view, first), "finish", "")


def oldest(view: ShelfView) -> ModelView | None:
    """The model that the longest-waiting job is for."""

    def wait_s(model: ModelView) -> float:
        return max(model.waiting.oldest_s or 0.0, model.waiting.oldest_flex_s or 0.0)

    return max((model for model in view.models if model.waiting.jobs), key=wait_s, default=None)


@dataclass(frozen=True)
class Rival:
    name: str
    decide: Policy
    in_arrival_order: bool = False


RIVALS = (
    Rival("this policy", decide),
    Rival("in the order of arrival", in_order_of_arrival, in_arrival_order=True),
    Rival("until nothing is left", until_nothing_is_left),
)


@dataclass(frozen=True)
class Result:
    """Waits until the first token, of jobs that are not flex, in seconds."""

    waits: Sequence[float]
    answers: Sequence[float]  # until the last token
    flex: Sequence[float]  # until the last token of flex jobs
    num_swaps: int
    idle: float  # part of the time in which nothing was computed
    tokens_per_s: float
    longest_head_s: float


def jobs_of(options: argparse.Namespace, num_models: int) -> list[Job]:
    random = Random(options.seed)
    jobs, now = [], 0.0
    for _ in range(options.jobs):
        now += random.expovariate(options.rate)
        jobs.append(
            Job(
                now,
                random.randrange(num_models),
                random.randrange(NUM_KEYS),
                "flex" if random.random() < options.flex else "default",
                options.prefill_s,
                max(1, round(random.expovariate(1 / options.tokens))),
            )
        )
    return jobs


def measure(options: argparse.Namespace, num_models: int, rival: Rival) -> Result:
    models = [Model(f"model-{at}", 10, options.swap_s) for at in range(num_models)]
    device = Device(10 * options.fit, max_swap_wait_s=options.max_swap_wait, in_arrival_order=rival.in_arrival_order)
    simulation = Simulation(device, models, jobs_of(options, num_models), rival.decide, TICK_S)
    simulation.run(1e5)
    others = [job for job in simulation.jobs if job.tier != "flex"]
    return Result(
        [(job.first_token or 0.0) - job.arrival for job in others],
        [(job.ended or 0.0) - job.arrival for job in others],
        [(job.ended or 0.0) - job.arrival for job in simulation.jobs if job.tier == "flex"],
        len(simulation.swaps),
        1 - simulation.computed_s / simulation.now,
        sum(job.tokens for job in simulation.jobs) / simulation.now,
        simulation.longest_head_s,
    )


def quantile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))] if values else 0.0


def row(num_models: int, name: str, result: Result) -> str:
    waits = " / ".join(f"{quantile(result.waits, part):.1f}" for part in (0.5, 0.95, 1.0))
    ends = f"{quantile(result.answers, 0.5):.0f} / {quantile(result.answers, 0.95):.0f}"
    return (
        f"| {num_models} | {name} | {waits} | {ends} | {quantile(result.flex, 0.5):.0f} | {result.longest_head_s:.1f} "
        f"| {result.num_swaps} | {100 * result.idle:.0f} % | {result.tokens_per_s:.0f} |"
    )


def parsed(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, nargs="+", default=NUM_MODELS)
    parser.add_argument("--fit", type=int, default=1, help="models that fit together")
    parser.add_argument("--swap-s", type=float, default=1.0, help="seconds that loading takes")
    parser.add_argument("--max-swap-wait", type=float, default=30.0)
    parser.add_argument("--jobs", type=int, default=400)
    parser.add_argument("--rate", type=float, default=0.5, help="jobs per second")
    parser.add_argument("--tokens", type=float, default=100.0, help="of an answer, in the mean")
    parser.add_argument("--prefill-s", type=float, default=0.1, help="of the device, for a prompt")
    parser.add_argument("--flex", type=float, default=0.2, help="part of the jobs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--picture", type=Path, help=f"such as {PICTURE.relative_to(PICTURE.parents[2])}")
    return parser.parse_args(arguments)


def main() -> None:
    options = parsed()
    print("| models | policy | wait p50 / p95 / max | answer p50 / p95 | flex p50 | head | swaps | idle | tokens/s |")
    print("|---" * 9 + "|")
    found: dict[str, list[tuple[int, Result]]] = {rival.name: [] for rival in RIVALS}
    for num_models in options.models:
        for rival in RIVALS:
            result = measure(options, num_models, rival)
            found[rival.name].append((num_models, result))
            print(row(num_models, rival.name, result), flush=True)
    if options.picture:
        waits = {name: [(at, quantile(one.waits, 0.95)) for at, one in line] for name, line in found.items()}
        idle = {name: [(at, 100 * one.idle) for at, one in line] for name, line in found.items()}
        panels = [
            Panel("waits until the first token", "models, of which one fits", "p95, s", waits, is_log_x=False),
            Panel("device without work", "models, of which one fits", "% of the time", idle, False, False),
        ]
        draw(
            panels,
            options.picture,
            f"{options.jobs} jobs, {options.rate:g} a second; a swap takes {options.swap_s:g} s",
        )


if __name__ == "__main__":
    main()
