"""Memory of worker, template and keeper over many swaps: it must come back to the same level."""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from bench.report import table
from tests.chaos.shelf_run import settings_of
from tests.chaos.shelf_service import KEYS, TableService

SLACK = 1.05
ROLES = ("worker", "template", "keeper")


def sizes(process: psutil.Process) -> dict[str, int]:
    """MB: resident, proportional share, private."""
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()[1:]
    found = {name: int(rest.split()[0]) / 1024 for name, _, rest in (line.partition(":") for line in lines)}
    private = found["Private_Clean"] + found["Private_Dirty"]
    return {"RSS": round(found["Rss"]), "PSS": round(found["Pss"]), "private": round(private)}


def ask(service: TableService, model: str) -> float:
    """Seconds until the answer of one token."""
    began = time.monotonic()
    body = {"model": model, "prompt": "one two three", "max_tokens": 1, "temperature": 0}
    with service.http() as http:
        answer = http.post("/v1/completions", json=body, headers={"Authorization": f"Bearer {KEYS[0]}"}, timeout=120)
    if answer.status_code != 200:
        raise RuntimeError(answer.text)
    return time.monotonic() - began


def swaps_and_memory(args: argparse.Namespace, models: Mapping[str, Path], folder: Path) -> bool:
    """args.memory swaps, each made by a request for a model that is not loaded."""
    service = TableService(folder, models, settings_of(1, args.max_swap_wait, OMNI_THREADS=str(args.threads)))
    names, rows, levels = list(models), [], []
    every = max(1, args.memory // 10)
    try:
        service.start()
        took: list[float] = []
        for number in range(1, args.memory + 1):
            took.append(ask(service, names[number % len(names)]))
            if number % every == 0:
                seen = {role: sizes(process) for role, process in service.children().items()}
                total = sum(size["PSS"] for size in seen.values())
                levels.append(total)
                rows.append(
                    [number, f"{sum(took) / len(took):.2f}", f"{max(took):.2f}", total]
                    + [f"{seen[role]['PSS']} ({seen[role]['private']})" if role in seen else "" for role in ROLES]
                )
                took.clear()
    finally:
        service.stop()
    heads = ["swaps", "mean s", "max s", "MB together (PSS)", *(f"{role} PSS (private)" for role in ROLES)]
    print(table(heads, rows))
    return levels[-1] <= levels[0] * SLACK
