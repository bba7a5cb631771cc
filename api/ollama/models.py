"""A model's card in Ollama's words. What a card does not say is empty or 0, because clients expect the fields."""

import hashlib
from typing import Any

from api.ollama.chunks import written_time
from api.prompt.conversation import knows_thinking
from api.prompt.encoder import PromptEncoder
from api.prompt.fim import fim_tokens
from api.prompt.models import LATEST
from api.request.sampling import DEFAULT_TEMPERATURE
from common.redis.served.shelf import ShelfEntry
from common.wire import ModelCard

FOR_EVER = "2318-12-31T23:59:59Z"  # of a model that is not unloaded for being idle


def tagged(name: str) -> str:
    return name if ":" in name else name + LATEST


def listed(name: str, card: ModelCard) -> dict[str, Any]:
    """An item of /api/tags."""
    return {
        "name": tagged(name),
        "model": tagged(name),
        "modified_at": written_time(card.created * 10**9),
        "size": card.file_bytes,
        "digest": hashlib.sha256(f"{card.root} {card.revision}".encode()).hexdigest(),
        "details": details_of(card),
    }


def running(name: str, card: ModelCard, entry: ShelfEntry, *, is_on_gpu: bool) -> dict[str, Any]:
    """An item of /api/ps, of a model that is loaded. Its size is what it takes there, where that is known."""
    item = listed(name, card)
    del item["modified_at"]
    size = entry.memory_bytes
    return item | {
        "size": size or card.file_bytes,
        "expires_at": written_time(round(entry.unload_at * 10**9)) if entry.unload_at else FOR_EVER,
        "size_vram": size if is_on_gpu else 0,
        "context_length": card.max_model_len,
    }


def shown(name: str, encoder: PromptEncoder) -> dict[str, Any]:
    """The answer of /api/show."""
    card = encoder.card
    info: dict[str, Any] = {
        "general.architecture": card.architecture,
        "general.basename": name,
        f"{card.architecture}.context_length": card.max_model_len,
        f"{card.architecture}.vocab_size": card.vocab_size,
    }
    if card.num_dimensions is not None:
        info[f"{card.architecture}.embedding_length"] = card.num_dimensions
    return {
        "license": "",
        "modelfile": f"# Served by Protocol OMNI\nFROM {card.root}\n",
        "parameters": f"temperature {DEFAULT_TEMPERATURE:g}\nnum_ctx {card.max_model_len}",
        "template": card.chat_template or "",
        "details": details_of(card),
        "model_info": info,
        "capabilities": capabilities_of(encoder),
        "modified_at": written_time(card.created * 10**9),
    }


def details_of(card: ModelCard) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": card.file_format,
        "family": card.architecture,
        "families": [card.architecture],
        "parameter_size": "",
        "quantization_level": card.packing,
    }


def capabilities_of(encoder: PromptEncoder) -> list[str]:
    card = encoder.card
    if card.task != "generate":
        return ["embedding"] if card.task == "embed" else []
    has = {
        "completion": True,
        "tools": True,  # those that a template does not show are described in the system message
        "insert": fim_tokens(encoder.token_id) is not None,
        "vision": card.accepts_images,
        "thinking": knows_thinking(card, encoder.reasoning_form),
    }
    return [name for name, is_there in has.items() if is_there]
