"""What bench.gpu prints and writes: rows as they come, and a JSON line for each number at once."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from bench.gpu_predictions import GOALS, card_named, predicted
from bench.report import row, table


class Report:
    """Prints, and appends JSON lines to a file if one is named. A key is a number's name, as "step/1x1024/p50 ms"."""

    def __init__(self, out: Path | None, card: str) -> None:
        """`card`: the GPU's name as CUDA has it, or the processor's."""
        self.card = card_named(card)
        self.out = out
        self.fallback = ""  # why the engine does not run as it should on a GPU; empty if it does
        self.file: TextIO | None = None
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            self.file = out.open("a", buffering=1)

    def title(self, text: str) -> None:
        mark = f"FALLBACK ({self.fallback}): " if self.fallback else ""
        print(f"\n## {mark}{text}\n", flush=True)

    def say(self, text: str) -> None:
        print(text, flush=True)

    def columns(self, *names: str) -> None:
        print(table(names, []), flush=True)

    def row(self, *values: object) -> None:
        print(row(values), flush=True)

    def number(self, key: str, value: float, **more: object) -> None:
        """One measured number. `more`: what belongs to it, as a number of steps."""
        expected = predicted(key, self.card)
        extra = {"predicted": expected} if expected is not None else {}
        self.line({"number": key, "value": value, **extra, **more})

    def line(self, fields: Mapping[str, object]) -> None:
        if self.file is not None:
            marks = {"fallback": self.fallback} if self.fallback else {}
            self.file.write(json.dumps({**fields, **marks, "at": round(time.time(), 2)}) + "\n")

    def close(self) -> None:
        if self.file is not None:
            self.file.close()

    def predicted(self, key: str) -> object:
        """For a column beside the measured one."""
        value = predicted(key, self.card)
        return "" if value is None else value


def read_lines(out: Path) -> list[dict[str, Any]]:
    """All whole lines; a killed process may leave half of one."""
    lines = out.read_text().splitlines() if out.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def measured_in(out: Path | None) -> dict[str, float]:
    """The numbers by their keys, the last of each."""
    return {line["number"]: line["value"] for line in read_lines(out) if "number" in line} if out is not None else {}


def print_summary(out: Path, card: str) -> None:
    """Predicted beside measured, and the goals."""
    measured = measured_in(out)
    name = card_named(card)
    both = [(key, predicted(key, name), value) for key, value in measured.items() if predicted(key, name) is not None]
    if both:
        print(f"\n## Predicted and measured, {name}\n")
        print(table(["", "predicted", "measured", "x"], [(*each, each[2] / each[1]) for each in both if each[1]]))
    print("\n## Goals\n")
    print(
        table(["", "goal", "measured", ""], [goal.judged(measured.get(goal.key), name) for goal in GOALS]), flush=True
    )
