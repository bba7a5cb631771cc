"""The model that a setting names: a folder, or a repository of the Hugging Face hub."""

import re
from pathlib import Path

from common.model.folder import fault_in
from common.settings import ModelSettings, SettingsError

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def fault_of(model: str, *, needs_weights: bool = True, needs_tokenizer: bool = True) -> str:
    """The fault of the name or its folder, before anything is loaded or downloaded; empty if there is none."""
    if not model:
        return "name a folder or a Hugging Face id"
    path = Path(model)
    if path.is_dir():
        return fault_in(path, needs_weights=needs_weights, needs_tokenizer=needs_tokenizer)
    if path.exists():
        return "that is a file; name the folder that holds config.json and the weights"
    return "" if HUB_ID.fullmatch(model) else "there is no such folder, and a Hugging Face id looks like owner/name"


def check_model(setting: str, model: str, *, needs_weights: bool = True) -> None:
    """Raises SettingsError if the model cannot be loaded."""
    if fault := fault_of(model, needs_weights=needs_weights):
        raise SettingsError(f"{setting}={model} cannot be loaded: {fault}.")


def check_generating(settings: ModelSettings) -> None:
    """Raises SettingsError if the model or its draft model cannot be loaded. That may be a head without a tokenizer."""
    check_model("OMNI_MODEL", settings.source, needs_weights=not settings.engine)
    draft = settings.draft_model
    if draft and (fault := fault_of(draft, needs_weights=False, needs_tokenizer=False)):
        raise SettingsError(f"OMNI_DRAFT_MODEL={draft} cannot be loaded: {fault}.")
