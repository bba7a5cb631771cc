"""The model that a setting names: a folder, or a repository of the Hugging Face hub."""

from common.model.folder import fault_of
from common.settings import ModelSettings, SettingsError


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
