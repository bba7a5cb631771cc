"""Simulates the queue with measured times: waiting, fairness, the load of Redis, and the limits.

    python -m bench.simulate --workers 1,8,64 --clients 10,1000,100000 --picture docs/images/scaling.png
    python -m bench.simulate --fairness --picture docs/images/fairness.png    # one key with many clients, one with one
    python -m bench.simulate --step-ms 12 --row-ms 0.15 --prefill-ms 40       # other workers than the measured ones

The times are bench/service_times.json's (bench.service_times writes it); bench/queue_model.py is what is played.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.pictures import Panel, draw
from bench.queue_model import MEASURED, Outcome, Shape, SimulatedQueue, Simulation

__all__ = ["SimulatedQueue", "Shape", "Simulation", "quantile", "row_of"]

HEAVY = (10, 30, 100, 300, 1000, 3000)
FLOOR_S = 0.001  # a wait that a logarithmic axis can show
Row = dict[str, Any]


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def redis_share(shape: Shape, outcome: Outcome, costs: Mapping[str, float]) -> float:
    """Of the time of Redis's one thread. Above 1 the workers would wait for it."""
    beats = shape.num_workers * shape.duration_ms / 1000
    busy_us = (
        outcome.num_asked * costs["job_us"]
        + outcome.num_steps * costs["append_us"]
        + outcome.num_rows * costs["row_us"]
        + beats * costs["beat_us"]
    )
    return busy_us / (shape.duration_ms * 1000)


def row_of(shape: Shape, costs: Mapping[str, float] | None = None) -> Row:
    """One line of the table. Times in seconds."""
    outcome = Simulation(shape).run()
    everyone = outcome.waits["heavy"] + outcome.waits["light"]
    row: Row = {
        "workers": shape.num_workers,
        "clients": shape.num_clients,
        "done/s": round(outcome.num_done / shape.duration_ms * 1000, 1),
        "wait p50": round(quantile(everyone, 0.5) / 1000, 2),
        "wait p99": round(quantile(everyone, 0.99) / 1000, 2),
        "redis": round(redis_share(shape, outcome, costs or measured()), 4),
    }
    if shape.num_heavy:
        row["heavy p50"] = round(quantile(outcome.waits["heavy"], 0.5) / 1000, 2)
        row["light p50"] = round(quantile(outcome.waits["light"], 0.5) / 1000, 2)
        row["light max"] = round(quantile(outcome.waits["light"], 1.0) / 1000, 2)
    return row


def measured() -> dict[str, Any]:
    """The result of bench.service_times, with its machine."""
    times: dict[str, Any] = json.loads(MEASURED.read_text())
    return times


def fairness_rows(shape: Shape) -> list[Row]:
    """One worker, one light client of its own key, and ever more heavy ones of one key; fair, and as they come."""
    rows = []
    for num_heavy in HEAVY:
        heavy = replace(shape, num_workers=1, num_clients=num_heavy + 1, num_heavy=num_heavy)
        fair, unfair = row_of(heavy), row_of(replace(heavy, is_fair=False))
        row = {"heavy": num_heavy} | {name: fair[name] for name in ("heavy p50", "light p50", "light max")}
        rows.append(row | {f"{name}, no fairness": unfair[name] for name in ("light p50", "light max")})
    return rows


def lines_of(rows: Sequence[Row], by: str, x: str, y: str) -> dict[str, list[tuple[float, float]]]:
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        lines.setdefault(f"{row[by]} {by if row[by] > 1 else by.rstrip('s')}", []).append(
            (row[x], max(row[y], FLOOR_S))
        )
    return lines


def scaling_panels(rows: Sequence[Row]) -> list[Panel]:
    wanted = (
        ("wait in the queue, p50", "seconds (0.001: none)", "wait p50"),
        ("wait in the queue, p99", "seconds (0.001: none)", "wait p99"),
        ("answers", "per second", "done/s"),
        ("Redis", "share of its one thread", "redis"),
    )
    return [
        Panel(title, "clients", unit, lines_of(rows, "workers", "clients", y), log_base=10) for title, unit, y in wanted
    ]


def fairness_panels(rows: Sequence[Row]) -> list[Panel]:
    def panel(title: str, names: Mapping[str, str]) -> Panel:
        lines = {
            title: [(float(row["heavy"]), max(float(row[name]), FLOOR_S)) for row in rows]
            for name, title in names.items()
        }
        return Panel(title, "clients of the heavy key", "seconds (0.001: none)", lines, log_base=10)

    light, unfair = "the light key", "the light key, first come first served"
    typical = {"heavy p50": "the heavy key", "light p50": light, "light p50, no fairness": unfair}
    longest = {"light max": light, "light max, no fairness": unfair}
    return [panel("wait in the queue, p50", typical), panel("wait in the queue, longest", longest)]


def say(rows: Sequence[Row], row: Row) -> None:
    if not rows:
        print("  ".join(f"{name:>9}" for name in row))
    print("  ".join(f"{value!s:>9}" for value in row.values()), flush=True)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    times = measured()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=numbers, default=[1, 8, 64])
    parser.add_argument("--clients", type=numbers, default=[10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000])
    parser.add_argument("--heavy", type=int, default=0, help="so many of the clients share one key")
    parser.add_argument("--fairness", action="store_true", help="ever more clients of one key beside one of another")
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--step-ms", type=float, default=times["step_ms"])
    parser.add_argument("--row-ms", type=float, default=times["row_ms"])
    parser.add_argument("--prefill-ms", type=float, default=times["prefill_ms"])
    parser.add_argument("--tokens", type=float, default=200.0)
    parser.add_argument("--think-s", type=float, default=20.0)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    parser.add_argument("--picture", type=Path, help="and draw them here")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    shape = Shape(
        1, 1, max_num_seqs=args.max_num_seqs, step_ms=args.step_ms, row_ms=args.row_ms, prefill_ms=args.prefill_ms,
        mean_tokens=args.tokens, think_ms=args.think_s * 1000, duration_ms=args.minutes * 60_000,
        num_heavy=args.heavy, seed=args.seed,
    )  # fmt: skip
    rows: list[Row] = []
    if args.fairness:
        for row in fairness_rows(shape):
            say(rows, row)
            rows.append(row)
    for num_workers in args.workers if not args.fairness else ():
        for num_clients in args.clients:
            row = row_of(replace(shape, num_workers=num_workers, num_clients=num_clients))
            say(rows, row)
            rows.append(row)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    if args.picture:
        caption = (
            f"simulated: {args.minutes:g} minutes, {args.tokens:g} tokens an answer, {args.think_s:g} s between "
            f"answers, {args.max_num_seqs} sequences a worker, steps of {args.step_ms:.3g} + {args.row_ms:.3g} ms each"
        )
        draw(fairness_panels(rows) if args.fairness else scaling_panels(rows), args.picture, caption)


if __name__ == "__main__":
    main()
