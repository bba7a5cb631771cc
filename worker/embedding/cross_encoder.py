"""A model with one label, which scores pairs of texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from common.wire import ModelCard
from worker.embedding.inputs import EncoderInput, padded, text_types

Activation = Callable[[torch.Tensor], torch.Tensor]
ACTIVATIONS: Mapping[str, Activation] = MappingProxyType({"Sigmoid": torch.sigmoid, "Identity": torch.Tensor.clone})


@dataclass(frozen=True)
class CrossEncoder:
    """Pairs of texts to scores."""

    model: Any
    activation: Activation
    has_text_types: bool  # whether the model tells the texts of a pair apart by their types
    padding: int
    card: ModelCard
    device: torch.device

    @torch.inference_mode()
    def __call__(self, inputs: Sequence[EncoderInput]) -> torch.Tensor:
        """Scores [B, 1] on the CPU, float32."""
        ids, mask = padded(inputs, self.padding)
        types = {"token_type_ids": text_types(inputs, ids.shape[1]).to(self.device)} if self.has_text_types else {}
        logits = self.model(input_ids=ids.to(self.device), attention_mask=mask.to(self.device), **types).logits
        return self.activation(logits.float()).cpu()


def is_cross_encoder(config: Any) -> bool:
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or ())


def activation_of(config: Any) -> Activation:
    """From logit to score: the function that the checkpoint names as sentence-transformers does, else the sigmoid.

    Raises ValueError for a model with several labels, and for another function.
    """
    if config.num_labels != 1:
        labels = ", ".join(list(config.id2label.values())[:4])
        raise ValueError(f"it is a classifier with {config.num_labels} labels ({labels}); a reranker has one.")
    own = getattr(config, "sentence_transformers", None) or {}
    named = own.get("activation_fn") or getattr(config, "sbert_ce_default_activation_function", None) or "Sigmoid"
    name = str(named).rpartition(".")[2]
    if name not in ACTIVATIONS:
        raise ValueError(f"config.json names the activation {named}; known here are {' and '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[name]
