"""What `omni models` and `omni fit` print of models: from GET /v1/models, or from the table's file."""

import json
import subprocess
import sys
from collections.abc import Mapping
from textwrap import shorten
from types import MappingProxyType
from typing import Any

import click

from cli.serve import ROOT
from common.environment import child_environment
from common.model.folder import size_of_weights
from common.shelf.table import TableModel

LIST = ("id", "status", "task", "size", "context", "waiting", "keep alive", "of")
SHOWN = MappingProxyType(
    {
        "id": "id",
        "ids": "all ids",
        "status": "status",
        "fault": "fault",
        "task": "task",
        "root": "model",
        "parent": "adapter of",
        "architecture": "architecture",
        "packing": "weights are",
        "size": "size in files",
        "weights": "on the device",
        "memory": "memory",
        "kv_per_token": "KV per token",
        "max_model_len": "context",
        "accepts_images": "images",
        "waiting": "waiting",
        "swapped_out": "swapped out",
        "pinned": "pinned",
        "keep_alive": "keep alive",
    }
)  # field of an item -> what is printed of it
MAX_STATUS = 70  # characters, in a table
SIZES = ("size", "weights", "memory", "kv_per_token")


def from_file(model: TableModel) -> list[dict[str, Any]]:
    """Items like those of GET /v1/models, as far as the file tells."""
    known = {"root": model.source, "size": size_of_weights(model.source), "max_model_len": model.max_model_len}
    own = {"pinned": model.is_pinned, "keep_alive": model.keep_alive_s, "status": None}
    ids = [{"id": name, "ids": list(model.ids), "parent": None, **known, **own} for name in model.ids]
    return ids + [{"id": name, "parent": model.queue, "root": path, "status": None} for name, path in model.adapters]


def row_of(item: Mapping[str, Any]) -> tuple[str | int | None, ...]:
    """The cells of LIST."""
    context = item.get("max_model_len")
    return (
        item["id"],
        shorten(status_text(item) or "", MAX_STATUS, placeholder=" ..."),
        item.get("task"),
        gigabytes(item["size"]) if item.get("size") else None,
        f"{context:,}" if context else None,
        item.get("waiting"),
        keep_alive_text(item),
        item.get("parent"),
    )


def status_text(item: Mapping[str, Any]) -> str | None:
    """Such as 'loading 35%' or 'cold, 12 s to load'."""
    status, eta = item.get("status"), item.get("eta_s")
    if not status:
        return None
    text = str(status["state"])
    if text == "loading":
        return f"loading {status.get('progress', 0):.0%} {status.get('what', '')}".rstrip()
    if status.get("failed"):
        return f"{text}: {status.get('reason')}"
    if status.get("why"):
        return f"{text}: {status['why']}"
    return f"{text}, {eta:.0f} s to load" if eta else text


def keep_alive_text(item: Mapping[str, Any]) -> str | None:
    if item.get("pinned"):
        return "pinned"
    seconds = item.get("keep_alive")
    if seconds is None:
        return None
    return "for ever" if seconds < 0 else f"{seconds:g} s"


def line_of(field: str, value: Any) -> str | None:
    """A field of `omni models show`; None for one that says nothing."""
    if value in (None, "", [], False) or (field in SIZES and not value):
        return None
    if field == "status":
        return status_text({"status": value})
    if field in SIZES:
        return f"{value / 2**10:,.1f} KiB" if field == "kv_per_token" else gigabytes(value)
    if field == "keep_alive":
        return keep_alive_text({"keep_alive": value})
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):  # of a served model: its modalities
        return " -> ".join("+".join(kinds) for kinds in value.values())
    return "yes" if value is True else f"{value:,}" if isinstance(value, int) else str(value)


def gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB"


def unloaded(name: str = "", memory: int | None = None) -> dict[str, Any]:
    """The worker's report on the table's models, or on one of them."""
    return worker_report("worker.unloaded", *(["--model", name] if name else []), *memory_option(memory))


def memory_option(memory: int | None) -> list[str]:
    return ["--memory", str(memory)] if memory else []


def worker_report(module: str, *arguments: str) -> dict[str, Any]:
    """What a module of the worker prints, which knows models. Raises ClickException with its sentence."""
    environment = child_environment(PYTHONPATH=str(ROOT), HF_HUB_OFFLINE="1")
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["the worker ended without a word"]
        raise click.ClickException(lines[-1].removeprefix("configuration: "))
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report
