"""MTP heads: a layer after the model's last one, in the same files, trained to predict one token more.

transformers leaves these tensors out when it loads a model, and has a class that reads them afterwards.
"""

import json
import logging
from itertools import chain
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from worker.attention.paged import ATTENTION_NAME, Attention, PagedAttention, register_attention
from worker.attention.spec import AttentionSpec
from worker.drafting.heads import HeadGuesser
from worker.models.formats.reader import has_packed
from worker.models.loader import LoadedModel
from worker.models.model_files import file_of
from worker.models.transformers_seams import first_mtp_layer
from worker.runners.base import ModelRunner
from worker.state.kv_cache import LayerShape

logger = logging.getLogger(__name__)

# a tensor that every head of a kind has -> why heads of the kind are not used; none for the kind that is.
# {n} is the number of layers. Names as in vLLM's deepseek_mtp.py, glm4_moe_mtp.py, qwen3_next_mtp.py, mimo_mtp.py and
# ernie_mtp.py.
KINDS = MappingProxyType(
    {
        "model.layers.{n}.eh_proj.weight": "",
        "mtp.fc.weight": "those of Qwen's form are not computed here",
        "model.mtp_layers.0.input_proj.weight": "MiMo's are not computed here",
        "model.mtp_linear_proj.0.weight": "ERNIE's are not computed here",
    }
)


class MtpHead:
    """The family's own decoder layer, after a product that joins a token's embedding and the model's hidden state."""

    def __init__(self, layer: Any, loaded: LoadedModel) -> None:
        """`layer`: see first_mtp_layer()."""
        self.layer = layer
        self.model = loaded.model
        self.dtype = loaded.dtype
        text = loaded.model.config.get_text_config()
        self.feature_layers: tuple[int, ...] = (text.num_hidden_layers + 1,)  # after the final norm
        self.num_heads: int = text.num_attention_heads
        self.shape = self._shape_of(text.hidden_size, loaded.device)

    def bind(self, runner: ModelRunner) -> None:
        """See DraftHead."""
        self.runner = runner

    def combine(self, features: torch.Tensor) -> torch.Tensor:
        """See DraftHead."""
        return features

    def run(
        self, token_ids: torch.Tensor, before: torch.Tensor, positions: torch.Tensor, paged: Attention
    ) -> torch.Tensor:
        """See DraftHead. The states are those after the head's final norm, as the model's are."""
        return self._states(self.runner.embed(token_ids), before, positions, paged)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """See DraftHead."""
        return self.runner.project(states)

    def model_ids(self, token_ids: torch.Tensor) -> torch.Tensor:
        """See DraftHead."""
        return token_ids

    def _states(
        self, embedded: torch.Tensor, before: torch.Tensor, positions: torch.Tensor, paged: Attention
    ) -> torch.Tensor:
        rotary = self.model.get_decoder().rotary_emb
        states: torch.Tensor = self.layer(
            embedded[None],
            before[None],
            position_embeddings=rotary(embedded[None], positions[None]),
            attention_mask=None,
            position_ids=positions[None],
            cache=None,
            paged=paged,
        )
        return states[0]

    @torch.inference_mode()
    def _shape_of(self, width: int, device: torch.device) -> LayerShape:
        seen = SeenShape()
        hidden = torch.zeros(2, width, dtype=self.dtype, device=device)
        self._states(hidden, hidden, torch.arange(2, device=device), seen)
        return seen.shape


class SeenShape(PagedAttention):
    """Computes nothing and keeps the shape of the keys and values."""

    shape: LayerShape

    def __init__(self) -> None:
        """It has no cache."""

    def write(self, layer_idx: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """See PagedAttention."""
        self.shape = LayerShape(key.shape[1], key.shape[2], value.shape[2])

    def attend(self, layer_idx: int, query: torch.Tensor, spec: AttentionSpec) -> torch.Tensor:
        """See PagedAttention."""
        return query.new_zeros(*query.shape[:2], self.shape.value_dim)


def load_mtp(loaded: LoadedModel) -> HeadGuesser | None:
    """The head in the model's own files; None, with a line in the log, if it has one that is not used."""
    text = loaded.model.config.get_text_config()
    names = tensor_names(loaded.model.config.name_or_path)
    found = [why for mark, why in KINDS.items() if mark.format(n=text.num_hidden_layers) in names]
    if not found:
        return None
    why = found[0]
    if loaded.images is not None:
        why = "heads guess for models of text only"
    elif getattr(loaded.model, "is_quantized", False) or has_packed(loaded.model):
        why = "its weights are packed"
    if not why:
        try:
            register_attention()
            layer = first_mtp_layer(loaded.model, loaded.device, ATTENTION_NAME)
            return HeadGuesser(MtpHead(layer, loaded), loaded)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the head is dispensable
            why = f"{type(error).__name__}: {error}"
    logger.warning("the checkpoint's own MTP head is not used: %s", why)
    return None


def tensor_names(model: str) -> frozenset[str]:
    """The tensors in the files of a folder, or of a hub model in the cache."""
    if (index := file_of(model, SAFE_WEIGHTS_INDEX_NAME)) is not None:
        return frozenset(json.loads(index.read_text())["weight_map"])
    if (file := file_of(model, SAFE_WEIGHTS_NAME)) is None:
        return frozenset()
    with safe_open(file, framework="pt") as tensors:
        return frozenset(chain(tensors.keys()))
