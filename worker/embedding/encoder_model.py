"""Loads an encoder from its folder or hub id, with the card that describes it to the API."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol

import torch
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from common.model.frames import pair_frame, text_frame
from common.wire import ModelCard
from worker.device import choose_device, use_device
from worker.embedding.cross_encoder import CrossEncoder, activation_of, is_cross_encoder
from worker.embedding.inputs import EncoderInput, padded
from worker.embedding.pooling import Pooling, read_json, read_pooling
from worker.models.card import revision_of, shown_name, weights_fields
from worker.models.loader import EngineConfig, choose_threads, device_map
from worker.models.loading_reports import logs_at_debug, reports_weights
from worker.models.missing_weights import check_complete, missing_weights, needed_for_states
from worker.progress import OnProgress

# Their positions start after the padding token's: the table has that many rows more than an input may have tokens.
COUNTED_FROM_PADDING = frozenset({"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer"})


class Encoder(Protocol):
    """What the Embedder runs: an embedder of texts, or a cross-encoder of pairs."""

    @property
    def card(self) -> ModelCard: ...

    @property
    def device(self) -> torch.device: ...

    def __call__(self, inputs: Sequence[EncoderInput]) -> torch.Tensor:
        """A vector or a score of each input: [B, D] on the CPU, float32."""


@dataclass(frozen=True)
class LoadedEncoder:
    """Texts to vectors."""

    model: Any
    pooling: Pooling
    card: ModelCard
    device: torch.device

    @torch.inference_mode()
    def __call__(self, inputs: Sequence[EncoderInput]) -> torch.Tensor:
        """Vectors [B, D] on the CPU."""
        ids, mask = (part.to(self.device) for part in padded(inputs, padding=0))
        return self.pooling(self.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask).cpu()


@logs_at_debug()
def load_encoder(model_path: str, names: tuple[str, ...], config: EngineConfig, on_progress: OnProgress) -> Encoder:
    """Raises OSError or ValueError when the folder holds no encoder."""
    device = choose_device(config.device)
    use_device(device)
    on_progress("tokenizer", 0.0)
    model_config, tokenizer = read_encoder(model_path)
    scores = is_cross_encoder(model_config)
    activation = activation_of(model_config) if scores else None
    pooling = None if scores else read_pooling(model_path)
    with reports_weights(on_progress):
        model, loading_info = (AutoModelForSequenceClassification if scores else AutoModel).from_pretrained(
            model_path,
            dtype="auto" if device.type != "cpu" else torch.float32,
            device_map=device_map(device),
            use_safetensors=True,
            output_loading_info=True,
        )
    missing = missing_weights(model, loading_info)
    check_complete(model, missing if scores else needed_for_states(missing))
    torch.set_num_threads(choose_threads(config, model))
    model = model.eval().requires_grad_(False)
    card = describe(model_path, names, model_config, tokenizer, config.max_model_len)
    if activation is None:
        assert pooling is not None
        return LoadedEncoder(model, pooling, card, device)
    return CrossEncoder(
        model,
        activation,
        has_text_types="token_type_ids" in tokenizer.model_input_names and takes_text_types(model),
        padding=next(pad for pad in (model_config.pad_token_id, tokenizer.pad_token_id, 0) if pad is not None),
        card=card,
        device=device,
    )


def read_encoder(model_path: str) -> tuple[Any, Any]:
    """Its configuration and its tokenizer. Raises OSError or ValueError for one that cannot be used as an encoder."""
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    config = AutoConfig.from_pretrained(model_path)
    if config.is_encoder_decoder:
        raise ValueError(f"{config.model_type} is an encoder with a decoder; embeddings need one without.")
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()  # the API decides what is cut and what is refused
    (pair_frame if is_cross_encoder(config) else text_frame)(backend)  # refuses what the API could not encode
    return config, tokenizer


def describe(
    model_path: str, names: tuple[str, ...], config: Any, tokenizer: Any, max_model_len: int | None
) -> ModelCard:
    """The card of an embedder or a cross-encoder. `max_model_len` may be shorter than its files' limits."""
    longest = max_length(model_path, config, tokenizer)
    scores = is_cross_encoder(config)
    return ModelCard(
        queue=names[0],
        names=names,
        root=shown_name(model_path),
        revision=revision_of(model_path),
        architecture=config.model_type,
        max_model_len=min(max_model_len or longest, longest),
        vocab_size=config.vocab_size,
        created=int(time.time()),
        tokenizer=tokenizer.backend_tokenizer.to_str(),
        chat_template=None,
        task="score" if scores else "embed",
        num_dimensions=None if scores else config.hidden_size,
        **weights_fields(model_path, config),
    )


def takes_text_types(model: Any) -> bool:
    return "token_type_ids" in signature(model.forward).parameters


def max_length(model_path: str, config: Any, tokenizer: Any) -> int:
    """The most tokens of one input: the smallest limit in the model's files."""
    positions = config.max_position_embeddings
    if config.model_type in COUNTED_FROM_PADDING:
        positions -= config.pad_token_id + 1
    own = (read_json(model_path, "sentence_bert_config.json") or {}).get("max_seq_length")
    return int(min(positions, tokenizer.model_max_length, own or positions))
