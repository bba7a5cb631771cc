"""The card of a model that is not loaded: that of the loaded one, but for a context that memory makes shorter."""

from pathlib import Path
from typing import Any

from huggingface_hub import is_offline_mode
from transformers import GenerationConfig

from common.model.folder import CONFIG
from common.settings import ModelSettings
from common.wire import ModelCard, Task
from worker.embedding import encoder_model
from worker.embedding.cross_encoder import is_cross_encoder
from worker.embedding.pooling import read_json
from worker.models.card import check_template, context_of, describe, revision_of
from worker.models.config_fields import is_encoder
from worker.models.gguf.model import gguf_model
from worker.models.loading_reports import logs_at_debug
from worker.models.model_files import file_of
from worker.models.read.config import read_config
from worker.models.read.tokenizer import read_tokenizer
from worker.models.vision import image_processor, is_vision_model

MODULES = "modules.json"  # of a model for sentence-transformers


def task_of(model_path: str) -> Task:
    """What a folder, a GGUF file or a hub id is for. Raises OSError or ValueError."""
    gguf = gguf_model(model_path)
    return "generate" if gguf else task_in(model_path, read_config(model_path))


def task_in(model_path: str, config: Any) -> Task:
    """A model with sentence-transformers' steps is an embedder, even if its architecture could generate."""
    if is_cross_encoder(config):
        return "score"
    return "embed" if is_encoder(config) or read_json(model_path, MODULES) is not None else "generate"


@logs_at_debug()
def cold_card(settings: ModelSettings) -> ModelCard:
    """Of a folder, a GGUF file or a hub id, whose small files are fetched where the cache lacks them; no weights.

    `settings`: those of this one model. Raises OSError or ValueError with a sentence.
    """
    path, names = settings.source, settings.names
    check_can_be_read(path)
    gguf = gguf_model(path)
    config = gguf.config if gguf else read_config(path)
    if gguf is None and (task := task_in(path, config)) != "generate":
        check_keys(settings, task)
        config, tokenizer = encoder_model.read_encoder(path)
        return encoder_model.describe(path, names, config, tokenizer, settings.max_model_len)
    tokenizer = gguf.tokenizer() if gguf else read_tokenizer(path, config)
    generation = gguf.generation_config if gguf else generation_config(path, config)
    card = describe(path, names, tokenizer, config, generation, settings.max_model_len)
    if is_vision_model(config) and (images := image_processor(path)) is not None:
        card = images.extend(card)
    check_template(path, card)
    return card


def check_can_be_read(model_path: str) -> None:
    """Raises ValueError for a hub id that is not in the cache while the hub is not to be asked."""
    if not Path(model_path).exists() and is_offline_mode() and file_of(model_path, CONFIG) is None:
        raise ValueError(
            f"it is not in the hub's cache, and HF_HUB_OFFLINE is set; run omni models pull {model_path} without that."
        )


def generation_config(model_path: str, config: Any) -> Any:
    """As from_pretrained gives it to the model."""
    try:
        return GenerationConfig.from_pretrained(model_path)
    except OSError:
        return GenerationConfig.from_model_config(config)


def check_keys(settings: ModelSettings, task: Task) -> None:
    """Raises ValueError for what only a model that generates can have."""
    given = {"quantize": settings.quantize, "draft": settings.draft_model, "adapters": settings.adapters}
    if wrong := [name for name, value in given.items() if value]:
        kind = "a cross-encoder" if task == "score" else "an embedder"
        raise ValueError(f"it is {kind}, and {wrong[0]} is for models that generate; remove that key.")


def is_current(card: ModelCard, settings: ModelSettings) -> bool:
    """Whether a card that another worker of this service made still holds, so that no tokenizer need be read again."""
    path = settings.source
    if (card.names, card.revision) != (settings.names, revision_of(path)):
        return False
    if card.task != "generate":
        return settings.max_model_len in (None, card.max_model_len)
    gguf = gguf_model(path)
    config = gguf.config if gguf else read_config(path)
    return card.max_model_len == context_of(config, settings.max_model_len)
