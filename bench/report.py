"""Parts of every benchmark's report: tables, the machine, and its load."""

import json
import os
import platform
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

DEFAULT_FOLDER = Path.home() / ".cache" / "omni-bench"  # models and results, outside the repository


def machine() -> str:
    """One line: date, processor, memory, versions."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return (
        f"{time.strftime('%Y-%m-%d %H:%M')}, {os.cpu_count()} cores {processor()}, {memory:.0f} GiB, "
        f"Python {platform.python_version()}, {packages}"
    )


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def load_average() -> float:
    """Runnable processes, averaged over the last minute. The measured ones count too: read it before and after."""
    return round(os.getloadavg()[0], 2)


def row(values: Iterable[object]) -> str:
    return "| " + " | ".join(worded(value) for value in values) + " |"


def worded(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(names: Sequence[str], rows: Iterable[Iterable[object]]) -> str:
    """Markdown."""
    return "\n".join([row(names), "|" + "---|" * len(names), *map(row, rows)])


def percentile(values: Sequence[float], share: float) -> float:
    """0 for no values."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))
