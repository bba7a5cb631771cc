"""omni fit: which memory a model takes, and what of it fits on this machine."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import click

from cli.model_rows import memory_option, unloaded, worker_report
from cli.model_table import as_written
from cli.terminal import json_option, show_json, show_note, show_table
from common.setting_types import parse_bytes
from common.settings import DEMO_MODEL, Settings

COLUMNS = (
    "OMNI_QUANTIZE",
    "dtype",
    "weights",
    "workspace",
    "KV per token",
    "room for KV",
    "context",
    "streams",
    "",
)
SPARSE_COLUMNS = ("OMNI_QUANTIZE", "experts", "on the GPU", "in memory", "on the disk")
WHOSE: Mapping[str, str] = MappingProxyType(
    {
        "measured": "that this machine's cores read of its memory now",
        "given": "as --bandwidth says of the memory",
        "supposed": "supposed: what that machine's cores read is not known here; --bandwidth tells it",
    }
)  # where the rates of memory are from
MODEL_COLUMNS = ("id", "task", "weights", "workspace", "KV per token", "context", "")


@click.command()
@click.argument("model", required=False)
@click.option("--memory", help="What would fit on a GPU of this size, e.g. 24gb. Default: this machine.")
@click.option("--ram", help="With so much memory for experts of a sparse model, e.g. 512gb. Default: this machine's.")
@click.option(
    "--bandwidth",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GB/S",
    help="GB/s that the cores read of memory, e.g. 300. Default: measured here; with --ram, three that are usual.",
)
@json_option
@click.pass_context
def fit(
    context: click.Context,
    model: str | None,
    memory: str | None,
    ram: str | None,
    bandwidth: float | None,
    as_json: bool,
) -> None:
    """Say which memory MODEL takes and what would fit.

    MODEL is a folder, a .gguf file, a config.json or a hub id that is in the cache, the id of a model of the table, or
    one of deepseek-v3.2, deepseek-r1, gpt-oss-120b, qwen3-235b and glm-4.5-air. Default: OMNI_MODEL, or all models of
    OMNI_MODELS. Nothing is loaded or downloaded.
    """
    settings = context.obj["settings"]()
    assumed, assumed_ram = size_of_option(memory, "--memory"), size_of_option(ram, "--ram")
    if model is None and settings.models:
        context.exit(int(not show_models(unloaded(memory=assumed), settings.shelf.max_loaded, as_json)))
    more = ["--ram", str(assumed_ram)] if assumed_ram else []
    given = settings.model.source if model is None else source_of(model, settings)
    more += ["--bandwidth", str(int(bandwidth * 1e9))] if bandwidth else []
    found = worker_report("worker.fit", given, *memory_option(assumed), *more)
    show_json(found) if as_json else show(found)
    sparse = found["sparse"] or {"plans": []}
    fits = any(not plan["missing"] for plan in found["plans"])
    context.exit(int(not fits and all(any(plan["missing"].values()) for plan in sparse["plans"])))


def source_of(model: str, settings: Settings) -> str:
    """What the worker is asked for. Raises ClickException for what is nearly an id of the table."""
    if model == "demo":
        return str(DEMO_MODEL)
    sources = {name: one.source for one in settings.models for name in one.ids}
    source = sources.get(model) or as_written(model)
    if source == model and "/" not in model and (near := get_close_matches(model, sources, 1)):
        raise click.ClickException(f"{settings.shelf.table} has no model {model!r}; did you mean {near[0]}?")
    return source


def size_of_option(text: str | None, name: str) -> int | None:
    """Raises BadParameter."""
    try:
        return parse_bytes(text or "")
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=name) from None


def show_models(found: Mapping[str, Any], max_loaded: int | None, as_json: bool) -> bool:
    """The models of the table, and whether they fit together. True if each of them fits."""
    machine, models = found["machine"], found["models"]
    free = machine["total"] - machine["used"]
    room = int(machine["total"] * found["share"]) - machine["used"] if machine["is_gpu"] else free
    needs = sorted(needed(model) for model in models if "fault" not in model)
    num_loaded = sum(1 for at in range(len(needs)) if sum(needs[-at - 1 :]) <= room)
    num_loaded = min(num_loaded, max_loaded or num_loaded)
    together = "all fit at once" if num_loaded == len(needs) else f"any {num_loaded} at once, while the others wait"
    if as_json:
        show_json(dict(found) | {"room": room, "loaded_at_once": num_loaded})
    else:
        show_table(MODEL_COLUMNS, [model_row(model, room) for model in models])
        click.echo(f"\n{machine['name']}: {gib(room)} for models, which take {gib(sum(needs))}: {together}")
    return len(needs) == len(models) and (not needs or needs[-1] <= room)


def needed(model: Mapping[str, Any]) -> int:
    """Weights, workspace, and the keys and values of one sequence of the whole context, in bytes."""
    return int(model["weights"] + model["workspace"] + model["kv_per_token"] * model["max_model_len"])


def model_row(model: Mapping[str, Any], room: int) -> tuple[str | None, ...]:
    if "fault" in model:
        return (model["id"], *[None] * (len(MODEL_COLUMNS) - 2), model["fault"])
    lacking = needed(model) - room
    per_token = f"{model['kv_per_token'] / 2**10:,.1f} KiB" if model["kv_per_token"] else None
    sizes = (gib(model["weights"]), gib(model["workspace"]), per_token, f"{model['max_model_len']:,}")
    return (model["id"], model["task"], *sizes, "fits" if lacking <= 0 else f"does not fit: needs {gib(lacking)} more")


def show(found: Mapping[str, Any]) -> None:
    machine, sizes = found["machine"], found["parameters"]
    kinds = ", ".join(f"{name} {billions(number)}" for name, number in sorted(sizes.items(), key=lambda item: -item[1]))
    click.echo(f"{found['architecture']}: {billions(sum(sizes.values()))} parameters ({kinds})")
    packed = f"weights packed as {found['packing']}" if found["packing"] else "weights not packed"
    click.echo(f"{packed}; sequences of {found['context']:,} tokens at most")
    free = machine["total"] - machine["used"]
    share = f", of which OMNI_GPU_MEMORY_UTILIZATION leaves {found['share']:.0%}" if machine["is_gpu"] else ""
    click.echo(f"{machine['name']}: {gib(free)} of {gib(machine['total'])} free{share}\n")
    show_filled(COLUMNS, [row(plan) for plan in found["plans"]])
    show_note(
        "streams: sequences of the whole context at once / of 4,096 tokens. Prefixes that requests share are kept once."
    )
    if found["sparse"]:
        show_sparse(found["sparse"], is_gpu=machine["is_gpu"])


def show_filled(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The columns that tell something: without a GPU nothing stands on one."""
    kept = [at for at in range(len(names)) if any(row[at] for row in rows)]
    show_table([names[at] for at in kept], [[row[at] for at in kept] for row in rows])


def show_sparse(found: Mapping[str, Any], *, is_gpu: bool) -> None:
    """The routed experts in the machine's memory, and all else on the device."""
    plan, rates = found["plans"][0], found["rates"]
    parts = ", ".join(f"{name} {gib(size)}" for name, size in sorted(plan["parts"].items(), key=lambda item: -item[1]))
    where = "with OMNI_EXPERTS=ram, beside what is on the GPU" if is_gpu else "beside all else"
    memory = "this machine's memory" if found["ram"] is None else f"{gib(found['ram'])} of memory"
    click.echo(f"\nRouted experts in {memory}, {where}: {parts},")
    keys = f"keys and values of {plan['context']:,} tokens {gib(plan['keys_and_values'])}"
    click.echo(f"{keys}, workspace {gib(plan['workspace'])}\n")
    columns = (*SPARSE_COLUMNS, *(f"at {rate / 1e9:,.0f} GB/s" for rate in rates["host"]), "")
    show_filled(columns, [sparse_row(plan) for plan in found["plans"]])
    gpu = f"; the GPU's own memory at {rates['device'] / 1e9:,.0f} GB/s" if is_gpu else ""
    show_note(
        "at N GB/s: tokens a second of one stream / of 8 together, by arithmetic and without drafts, where experts are "
        f"read so fast ({WHOSE[rates['whose']]}{gpu}). "
        "on the disk: the files to fetch, and the packed experts in OMNI_DATA_DIR."
    )


def sparse_row(plan: Mapping[str, Any]) -> tuple[str, ...]:
    needs = plan["needs"]
    speeds = [" / ".join(f"{speed:,.1f}" for speed in each) for each in plan["tokens_per_s"]]
    sizes = [gib(needs[name]) if needs[name] else "" for name in ("device", "host", "disk")]
    return (plan["quantize"] or "(none)", gib(plan["experts"]), *sizes, *speeds, sparse_verdict(plan["missing"]))


def sparse_verdict(missing: Mapping[str, int]) -> str:
    places = {"device": "of the GPU's memory", "host": "of memory", "disk": "of disk"}
    lacking = [f"{gib(missing[name])} {place}" for name, place in places.items() if missing[name]]
    return f"does not fit: {', '.join(lacking)} missing" if lacking else "fits"


def row(plan: Mapping[str, Any]) -> tuple[str, ...]:
    name, sizes = plan["quantize"] or "(none)", [gib(plan["weights"]), gib(plan["workspace"])]
    token = f"{plan['kv_per_token'] / 2**10:,.1f} KiB"
    if plan["missing"]:
        verdict = f"does not fit: needs {gib(plan['missing'])} more for {plan['why']}"
        return (name, plan["dtype"], *sizes, token, gib(plan["kv_room"]), "", "", verdict)
    streams = f"{plan['streams']} / {plan['short_streams']}"
    return (name, plan["dtype"], *sizes, token, gib(plan["kv_room"]), f"{plan['context']:,}", streams, "fits")


def gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:,.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:,.1f} MiB"


def billions(number: int) -> str:
    return f"{number / 1e9:,.2f} B" if number >= 1e8 else f"{number / 1e6:,.1f} M"
