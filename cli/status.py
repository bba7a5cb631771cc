"""omni status, omni ps: how the service is, and which models are loaded."""

import time
from typing import Any

import click

from cli.client import Client, Refused, client_of
from cli.model_rows import gigabytes, keep_alive_text, status_text
from cli.terminal import console, json_option, show_json, show_table

UNAVAILABLE = 503  # of /health while no worker is ready; the body tells why
OWN_OF_AN_ID = ("id", "display_name")
LOADED = ("id", "status", "memory", "context", "running", "waiting", "unloads")


@click.command()
@json_option
@click.pass_context
def status(context: click.Context, as_json: bool) -> None:
    """Show health, models, workers and the queue. Exit status 1 unless the service is healthy."""
    client = client_of(context)
    health = client.json("GET", "/health", allowed=(UNAVAILABLE,))
    models = client.json("GET", "/v1/models")["data"]
    board = board_of(client)
    if as_json:
        show_json({"url": client.url, "health": health, "models": models, "board": board})
    else:
        show(client.url, health, models, board)
    context.exit(int(health["status"] != "healthy"))


def board_of(client: Client) -> dict[str, Any] | None:
    """A snapshot of all jobs and workers; None without an admin key."""
    try:
        return next(event for event in client.events("GET", "/admin/board") if isinstance(event, dict))
    except Refused:
        return None


def show(url: str, health: dict[str, Any], models: list[dict[str, Any]], board: dict[str, Any] | None) -> None:
    lines = [("service", f"{url}  {health['status']}{since(health)}  version {health['version']}")]
    if progress := health.get("progress"):
        lines.append(("waits for", " ".join(str(part) for part in progress.values())))
    lines += [("model", model_line(model)) for model in merged(models)]
    if board is None:
        lines.append(("jobs", "of this key: omni jobs; those of all keys need an admin key"))
    else:
        lines += [("worker", worker_line(worker)) for worker in board["workers"]]
        lines.append(("jobs", jobs_line(board)))
    for label, text in lines:
        console().print(f"[bold]{label:10}[/bold]", end="")
        click.echo(text)


def merged(models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One item for each model, with all its ids in `ids`; without adapters."""
    found: dict[str, dict[str, Any]] = {}
    for model in models:
        same = str({name: value for name, value in model.items() if name not in OWN_OF_AN_ID})
        if not model.get("parent"):
            found.setdefault(same, {**model, "ids": []})["ids"].append(model["id"])
    return list(found.values())


def since(health: dict[str, Any]) -> str:
    return f" for {duration(health['uptime_seconds'])}" if health["uptime_seconds"] else ""


def duration(seconds: float) -> str:
    minutes, hours = int(seconds // 60), int(seconds // 3600)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"


def model_line(model: dict[str, Any]) -> str:
    context = f"{model['max_model_len']:,} tokens" if model.get("max_model_len") else ""
    root = str(model.get("root") or "")
    parts = (", ".join(model["ids"]), status_text(model), root if root not in model["ids"] else "", context)
    return "  ".join(part for part in parts if part)


def worker_line(worker: dict[str, Any]) -> str:
    if worker["state"] == "loading":
        progress = worker.get("progress") or {}
        return f"{worker['queue']}: loading {' '.join(str(part) for part in progress.values())}".rstrip()
    parts = [f"{worker['model'] or worker['queue']} on {worker['device']}", worker["state"]]
    parts += [f"{worker['batch']} in the batch", f"{worker['tokens_per_s']:.0f} tokens/s"]
    if worker["kv_total"]:
        parts.append(f"KV cache {worker['kv_used'] / worker['kv_total']:.0%} full")
    if worker["memory_used"]:
        parts.append(f"{gigabytes(worker['memory_used'])} used")
    return ", ".join(parts)


def jobs_line(board: dict[str, Any]) -> str:
    counts = {
        "running": len(board["running"]),
        "waiting": board["num_waiting"],
        "scheduled": board["num_scheduled"],
        "failed of late": len(board["failed"]),
    }
    return ", ".join(f"{number} {name}" for name, number in counts.items())


@click.command()
@json_option
@click.pass_context
def ps(context: click.Context, as_json: bool) -> None:
    """List the models that are loaded, with what runs and waits."""
    client = client_of(context)
    found = [
        model
        for model in merged(client.json("GET", "/v1/models")["data"])
        if (model.get("status") or {}).get("state", "loaded") in ("loaded", "loading")
    ]
    board = board_of(client)
    running = {worker["queue"]: worker["batch"] for worker in board["workers"]} if board else {}
    for model in found:
        model["running"] = next((running[name] for name in model["ids"] if name in running), None)
    if as_json:
        show_json(found)
    else:
        show_table(LOADED, [loaded_row(model) for model in found])


def loaded_row(model: dict[str, Any]) -> tuple[Any, ...]:
    context, memory = model.get("max_model_len"), model.get("memory")
    return (
        ", ".join(model["ids"]),
        status_text(model),
        gigabytes(memory) if memory else None,
        f"{context:,}" if context else None,
        model["running"],
        model.get("waiting"),
        unloads(model),
    )


def unloads(model: dict[str, Any]) -> str | None:
    """When a model leaves that is idle; None if it stays."""
    if expires := model.get("expires_at"):
        return f"in {duration(max(0.0, expires - time.time()))}"
    return keep_alive_text(model)
