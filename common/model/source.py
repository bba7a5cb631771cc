"""The models that settings name: folders, or repositories of the Hugging Face hub."""

from pathlib import Path

from common.model.folder import fault_of
from common.settings import ModelSettings, SettingsError
from common.shelf.table import TableModel


def check_model(setting: str, model: str, *, needs_weights: bool = True) -> None:
    """Raises SettingsError if the model cannot be loaded."""
    if fault := fault_of(model, needs_weights=needs_weights):
        raise SettingsError(f"{setting}={model} cannot be loaded: {fault}.")


def check_generating(settings: ModelSettings) -> None:
    """Raises SettingsError if the model, an adapter or the draft model cannot be loaded.

    A draft model may be a head without a tokenizer.
    """
    check_model("OMNI_MODEL", settings.source, needs_weights=not settings.engine)
    draft = settings.draft_model
    if draft and (fault := fault_of(draft, needs_weights=False, needs_tokenizer=False)):
        raise SettingsError(f"OMNI_DRAFT_MODEL={draft} cannot be loaded: {fault}.")
    for name, folder in settings.adapters:
        if not Path(folder).is_dir():
            raise SettingsError(f"OMNI_ADAPTERS: the adapter {name}={folder} is not a folder on the worker's machine.")


def table_fault(model: TableModel) -> str:
    """The first fault of its folders, its draft's and its adapters'; empty if there is none."""
    if fault := fault_of(model.source):
        return f"model={model.source} cannot be loaded: {fault}"
    if model.draft and (fault := fault_of(model.draft, needs_weights=False, needs_tokenizer=False)):
        return f"draft={model.draft} cannot be loaded: {fault}"
    absent = [f"{name}={folder}" for name, folder in model.adapters if not Path(folder).is_dir()]
    return f"the adapter {absent[0]} is not a folder on the worker's machine" if absent else ""
