"""MTP heads: a layer after the model's last one, in the same files, trained to predict one token more."""

import json
import logging
from dataclasses import replace
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Any

import torch
from safetensors import safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from worker.attention.paged import Attention
from worker.drafting.heads import HeadGuesser
from worker.drafting.mtp_layer import MtpLayer, load_mtp_layer
from worker.kernels.experts.swap import swap_proven_experts
from worker.kernels.fused import fused_linear
from worker.kernels.linear import tune_products
from worker.models.loader import EngineConfig, LoadedModel
from worker.models.model_files import file_of
from worker.runners.base import ModelRunner
from worker.runners.choose import surveyed_runner
from worker.runners.parts.hosted import hosted_experts
from worker.runners.parts.layers import Norm
from worker.runners.parts.mlp import encode_for
from worker.runners.probe import attending_part, stock_logits
from worker.state.kv_cache import KVCache, LayerShape

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

    def __init__(self, layer: MtpLayer, own: ModelRunner, loaded: LoadedModel) -> None:
        """`own`: runs `layer.model`. `loaded`: the model that verifies the guesses."""
        self.own = own
        own.feature_layers = (2,)  # after the final norm
        text = loaded.model.config.get_text_config()
        self.feature_layers: tuple[int, ...] = (text.num_hidden_layers + 1,)
        self.num_heads: int = text.num_attention_heads
        self.dtype = loaded.dtype
        self.shape: LayerShape = own.kv_cache.shapes[0]
        self.attend_with = own.attend_with
        self.hosted = own.hosted
        self.joining = fused_linear([layer.joining])
        self.token_norm, self.state_norm = Norm(layer.token_norm), Norm(layer.state_norm)
        self._any_token = torch.zeros(1, dtype=torch.long, device=loaded.device)  # whose logits are not used

    def bind(self, runner: ModelRunner, kv_cache: KVCache) -> None:
        """See DraftHead."""
        self.runner = runner
        self.own.kv_cache = kv_cache

    def recorded_attention(self, tensors: Any, max_queries: int) -> Attention:
        """See DraftHead."""
        return self.own.recorded_attention(tensors, max_queries)

    def combine(self, features: torch.Tensor) -> torch.Tensor:
        """See DraftHead."""
        return features

    def run(
        self, token_ids: torch.Tensor, before: torch.Tensor, positions: torch.Tensor, paged: Attention
    ) -> torch.Tensor:
        """See DraftHead. The states are those after the head's final norm, as the model's are."""
        both = normed(self.runner.embed(token_ids), self.token_norm), normed(before, self.state_norm)
        self.own.run_layers(self.joining(torch.cat(both, dim=-1)), positions, paged, self._any_token)
        assert self.own.kept is not None
        return self.own.kept

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """See DraftHead."""
        return self.runner.project(states)

    def model_ids(self, token_ids: torch.Tensor) -> torch.Tensor:
        """See DraftHead."""
        return token_ids


def normed(hidden: torch.Tensor, norm: Norm) -> torch.Tensor:
    """[T, width] by a norm whose weights may be in float32."""
    return torch.rms_norm(hidden.to(norm.weight.dtype), norm.shape, norm.weight, norm.eps).to(hidden.dtype)


def load_mtp(loaded: LoadedModel, config: EngineConfig) -> HeadGuesser | None:
    """The head in the model's own files; None, with a line in the log, if it has one that is not used."""
    text = loaded.model.config.get_text_config()
    names = tensor_names(loaded.model.config.name_or_path)
    found = [why for mark, why in KINDS.items() if mark.format(n=text.num_hidden_layers) in names]
    if not found:
        if names and getattr(text, "num_nextn_predict_layers", None):
            logger.warning(
                "config.json names an MTP layer that is not in the files: drafts are guessed by prompt lookup"
            )
        return None
    why = found[0]
    if loaded.images is not None:
        why = "heads guess for models of text only"
    elif getattr(loaded.model, "is_quantized", False):
        why = "its weights are packed by a library"
    if not why:
        try:
            return HeadGuesser(mtp_head(loaded, config), loaded)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the head is dispensable
            why = f"{type(error).__name__}: {error}"
    logger.warning("the checkpoint's own MTP head is not used: %s", why)
    return None


def mtp_head(loaded: LoadedModel, config: EngineConfig) -> MtpHead:
    """The head, run by the fastest runner that computes what transformers does.

    Raises OSError, ValueError, or Unsupported if no runner does.
    """
    layer = load_mtp_layer(loaded)
    part = replace(loaded, model=layer.model, images=None, kept=None, num_passes=1)
    hosted = hosted_experts(part, config)
    if loaded.device.type == "cpu":
        swap_proven_experts(attending_part(layer.model), partial(encode_for, config.quantization))
    own, _ = surveyed_runner(part, config, stock_logits(layer.model))
    own.hosted = hosted
    is_exact = loaded.dtype == torch.float32
    tune_products(own.linears, loaded.device, config.products_table, is_exact=is_exact)
    return MtpHead(layer, own, loaded)


def tensor_names(model: str) -> frozenset[str]:
    """The tensors in the files of a folder, or of a hub model in the cache."""
    if (index := file_of(model, SAFE_WEIGHTS_INDEX_NAME)) is not None:
        return frozenset(json.loads(index.read_text())["weight_map"])
    if (file := file_of(model, SAFE_WEIGHTS_NAME)) is None:
        return frozenset()
    with safe_open(file, framework="pt") as tensors:
        return frozenset(chain(tensors.keys()))
