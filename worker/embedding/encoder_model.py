"""Loads an encoder from its folder or hub id, with the card that describes it to the API."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer

from common.wire import ModelCard
from worker.device import choose_device, use_device
from worker.embedding.pooling import Pooling, read_json, read_pooling
from worker.models.card import revision_of, shown_name
from worker.models.loader import EngineConfig, choose_threads, device_map
from worker.models.loading_reports import logs_at_debug, reports_weights
from worker.models.missing_weights import check_complete, missing_weights, needed_for_states
from worker.progress import OnProgress

# Their positions start after the padding token's: the table has that many rows more than an input may have tokens.
COUNTED_FROM_PADDING = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer"})


@dataclass(frozen=True)
class LoadedEncoder:
    """A model that turns texts into vectors."""

    model: Any
    pooling: Pooling
    card: ModelCard
    device: torch.device


@logs_at_debug()
def load_encoder(
    model_path: str, names: tuple[str, ...], config: EngineConfig, on_progress: OnProgress
) -> LoadedEncoder:
    """Raises OSError or ValueError when the folder holds no encoder."""
    device = choose_device(config.device)
    use_device(device)
    on_progress("tokenizer", 0.0)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    model_config = AutoConfig.from_pretrained(model_path)
    if model_config.is_encoder_decoder:
        raise ValueError(f"{model_config.model_type} is an encoder with a decoder; embeddings need one without.")
    pooling = read_pooling(model_path)
    with reports_weights(on_progress):
        model, loading_info = AutoModel.from_pretrained(
            model_path,
            dtype="auto" if device.type != "cpu" else torch.float32,
            device_map=device_map(device),
            use_safetensors=True,
            output_loading_info=True,
        )
    check_complete(model, needed_for_states(missing_weights(model, loading_info)))
    torch.set_num_threads(choose_threads(config, model))
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()  # inputs that are too long are refused, never truncated
    card = ModelCard(
        queue=names[0],
        names=names,
        root=shown_name(model_path),
        revision=revision_of(model_path),
        architecture=model_config.model_type,
        max_model_len=max_length(model_path, model_config, tokenizer),
        vocab_size=model_config.vocab_size,
        created=int(time.time()),
        tokenizer=backend.to_str(),
        chat_template=None,
        task="embed",
        num_dimensions=model_config.hidden_size,
    )
    return LoadedEncoder(model.eval().requires_grad_(False), pooling, card, device)


def max_length(model_path: str, config: Any, tokenizer: Any) -> int:
    """The most tokens of one input: the smallest limit in the model's files."""
    positions = config.max_position_embeddings
    if config.model_type in COUNTED_FROM_PADDING:
        positions -= config.pad_token_id + 1
    own = (read_json(model_path, "sentence_bert_config.json") or {}).get("max_seq_length")
    return int(min(positions, tokenizer.model_max_length, own or positions))
