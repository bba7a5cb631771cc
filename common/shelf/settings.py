"""Settings of several models on one device: their table, and when one gives way to another."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from common.setting_types import WEBHOOK_QUEUE, AutoInt, SettingsGroup, WarmBytes, setting
from common.shelf.table import TableFault, TableModel, read_table

TABLE = "OMNI_MODELS"
IN_TABLE = MappingProxyType(
    {
        "OMNI_MODEL": "model",
        "OMNI_MODEL_NAME": "ids",
        "OMNI_ADAPTERS": "adapters",
        "OMNI_DRAFT_MODEL": "draft",
        "OMNI_QUANTIZE": "quantize",
    }
)  # settings of one model, and the keys that say the same in the table
NOT_BESIDE = MappingProxyType({"OMNI_ENGINE": ("",), "OMNI_TENSOR_PARALLEL": ("", "1")})  # with what is their absence


class ShelfSettings(SettingsGroup):
    """Without a table there is one model, that of OMNI_MODEL."""

    table: str = setting(TABLE, "")
    max_loaded: AutoInt = setting("OMNI_MAX_LOADED_MODELS", None, ge=1, le=1000)
    warm_memory: WarmBytes = setting("OMNI_WARM_MEMORY", None)
    max_swap_wait: float = setting("OMNI_MAX_SWAP_WAIT", 30.0, gt=0)


def models_in(values: Mapping[str, str]) -> tuple[TableModel, ...]:
    """The models of OMNI_MODELS; none without it. Raises TableFault, also for settings that do not go with it."""
    if not (table := values.get(TABLE, "")):
        return ()
    for name, key in IN_TABLE.items():
        if values.get(name):
            raise TableFault(f"{TABLE} does not go with {name}: write {key} into {table}, and remove {name}.")
    for name, absent in NOT_BESIDE.items():
        if values.get(name, "") not in absent:
            raise TableFault(f"{TABLE} does not go with {name}: give that model a service of its own.")
    return read_table(Path(table))


def check_names(
    models: tuple[TableModel, ...],
    names: tuple[str, ...],
    adapters: tuple[str, ...],
    embedding_names: tuple[str, ...],
) -> None:
    """Raises ValueError for a name that stands for two things. `names`, `adapters`: of OMNI_MODEL, if that is it."""
    if models:
        taken = {name for model in models for name in (*model.ids, *dict(model.adapters))}
        if shared := taken & {*embedding_names}:
            raise ValueError(f"{TABLE} and OMNI_EMBEDDING_MODEL both name {shared.pop()!r}; leave one of them out.")
        names, adapters = (), ()
    if WEBHOOK_QUEUE in {*names, *embedding_names, *adapters}:
        raise ValueError(f"A model cannot be called {WEBHOOK_QUEUE!r}: that is the dispatcher's own queue.")
    if shared := {*names} & {*embedding_names}:
        raise ValueError(f"OMNI_MODEL_NAME and OMNI_EMBEDDING_MODEL both name {shared.pop()!r}.")
    if shared := {*adapters} & {*names, *embedding_names}:
        raise ValueError(f"OMNI_ADAPTERS names {shared.pop()!r}, which is a model's id already.")
