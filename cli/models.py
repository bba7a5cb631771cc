"""omni models: the table of models that OMNI_MODELS names, and what the running service does with them."""

import os
from pathlib import Path
from typing import Any

import click

from cli.client import Refused, client_of, is_ours
from cli.model_orders import PATH, load, pin, unload, unpin
from cli.model_rows import LIST, SHOWN, from_file, gigabytes, line_of, row_of, unloaded
from cli.model_table import as_written, audited_table, named, table_path, values
from cli.status import ps
from cli.terminal import callers_path, json_option, show_json, show_note, show_table
from common.model.folder import size_of_weights
from common.model.source import table_fault
from common.setting_types import last_part
from common.settings import SettingsError
from common.shelf.edit import add_model, remove_model
from common.shelf.table import TableFault, file_at, model_of, no_such_model, read_table

WEIGHTS = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.tiktoken", "*.txt")  # of a repository, what is read


class ModelsGroup(click.Group):
    """Reports a fault of the table as one sentence."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except TableFault as fault:
            raise click.ClickException(str(fault)) from None


@click.group(cls=ModelsGroup, commands=(load, unload, pin, unpin, ps))
def models() -> None:
    """Add, remove, list, load and unload the models of OMNI_MODELS."""


@models.command()
@click.argument("model")
@click.option("--id", "ids", multiple=True, help="What clients write; may be repeated. Default: MODEL's last part.")
@click.option("--dtype", help="As OMNI_DTYPE.")
@click.option("--quantize", help="As OMNI_QUANTIZE.")
@click.option("--max-model-len", type=int, help="As OMNI_MAX_MODEL_LEN.")
@click.option("--adapter", "adapters", multiple=True, help="NAME=FOLDER of a LoRA adapter; may be repeated.")
@click.option("--pin", is_flag=True, help="Never unload it.")
@click.option("--keep-alive", help='Unload it when it has been idle for so long, such as "10m".')
@click.option("--draft", help="As OMNI_DRAFT_MODEL.")
@json_option
@click.pass_context
def add(
    context: click.Context,
    /,
    model: str,
    ids: tuple[str, ...],
    adapters: tuple[str, ...],
    pin: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Add MODEL to the table. It is a folder, a .gguf file, a Hugging Face id, or demo."""
    path = table_path()
    keys: dict[str, Any] = {"ids": list(ids)} if len(ids) > 1 else {"id": ids[0] if ids else last_part(model)}
    keys["model"] = as_written(model)
    keys |= {name: value for name, value in given.items() if value is not None}
    if adapters:
        keys["adapters"] = dict(adapter_of(text) for text in adapters)
    if pin:
        keys["pin"] = True
    if "draft" in keys:
        keys["draft"] = as_written(keys["draft"])
    if fault := table_fault(model_of(keys, 0, path)):
        raise click.ClickException(f"{fault}.")
    with audited_table("model.add", ids[0] if ids else last_part(model), model=keys["model"]):
        added = add_model(path, keys)
    if as_json:
        show_json(from_file(added))
    else:
        click.echo(f"added {added.queue} to {path}")
    if not Path(added.source).exists() and not is_cached(added.source):
        show_note(f"It is downloaded when it is first loaded, or now by: omni models pull {added.source}")
    say_restart(context)


def adapter_of(text: str) -> tuple[str, str]:
    name, _, folder = text.partition("=")
    if not folder:
        raise click.BadParameter(f"{text!r} is not NAME=FOLDER", param_hint="--adapter")
    return name, as_written(folder)


def is_cached(hub_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(hub_id, "config.json"), str)


def say_restart(context: click.Context) -> None:
    """The table is read at the start of the service."""
    try:
        client_of(context).text("GET", "/livez")
    except SettingsError as error:
        show_note(str(error))
    except click.ClickException:
        show_note("The service reads the table when it starts.")
    else:
        show_note("Restart the service to take this over; jobs that wait or run go on after that.")


@models.command()
@click.argument("name", metavar="ID")
@json_option
@click.pass_context
def remove(context: click.Context, name: str, as_json: bool) -> None:
    """Take the model with ID out of the table. Its files stay."""
    with audited_table("model.remove", name):
        removed = remove_model(table_path(), name)
    if as_json:
        show_json(from_file(removed))
    else:
        click.echo(f"removed {', '.join(removed.ids)}")
    say_restart(context)


@models.command("list")
@json_option
@click.pass_context
def list_models(context: click.Context, as_json: bool) -> None:
    """List the models: status, size, context, waiting jobs. Without a service, what the table tells."""
    found = served(context)
    if found is None:
        found = [item for model in read_table(table_path()) for item in from_file(model)]
        show_note("The service does not answer; this is the table's file.")
    if as_json:
        show_json(found)
    else:
        show_table(LIST, [row_of(item) for item in found])


def served(context: click.Context) -> list[dict[str, Any]] | None:
    """The items of GET /v1/models; None if it does not answer and is the one that has this table."""
    client = client_of(context)
    try:
        found: list[dict[str, Any]] = client.json("GET", PATH)["data"]
    except Refused:
        raise
    except click.ClickException:
        if not is_ours(context):
            raise
        return None
    return found


@models.command()
@click.argument("name", metavar="ID")
@json_option
@click.pass_context
def show(context: click.Context, name: str, as_json: bool) -> None:
    """Show all that is known of the model with ID. Without a service its files are looked into."""
    found = served(context)
    if found is None:
        (item,) = from_file(named(table_path(), name))[:1]
        (facts,) = unloaded(name)["models"]
        item |= facts
    else:
        items = [item for item in found if item["id"] == name]
        if not items:
            raise click.ClickException(no_such_model(name, [item["id"] for item in found]))
        item = items[0]
    if as_json:
        show_json(item)
        return
    for field, label in SHOWN.items():
        if (text := line_of(field, item.get(field))) is not None:
            click.echo(f"{label:14} {text}")


@models.command()
@click.argument("name", metavar="MODEL")
@json_option
def pull(name: str, as_json: bool) -> None:
    """Download MODEL into the hub's cache. It is a Hugging Face id, or the id of a model of the table."""
    table = values().get("OMNI_MODELS", "")
    if table and os.path.exists(file_at(Path(table))):
        sources = {one: model.source for model in read_table(Path(table)) for one in model.ids}
        name = sources.get(name, name)
    is_here = os.path.exists(here := callers_path(name))
    folder = here if is_here else downloaded(name)
    if as_json:
        show_json({"model": name, "folder": str(folder), "size": size_of_weights(str(folder))})
    elif is_here:
        click.echo(f"{name} is on this machine; there is nothing to download.")
    else:
        click.echo(f"{name}: {gigabytes(size_of_weights(str(folder)))} of weights in {folder}")


def downloaded(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(name, allow_patterns=list(WEIGHTS), ignore_patterns=["original/*", "onnx/*"]))
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise click.ClickException(f"{name} cannot be downloaded: {reason[:300]}") from None
