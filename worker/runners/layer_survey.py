"""Finds out how each layer of a model attends: the shape of its keys and values, its scores, its window.

The probe's dozen tokens cannot tell a window of thousands from none, so the model's own mask functions are evaluated
for some tokens of the longest sequence.
"""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from worker.attention.latent.spec import LatentSpec
from worker.attention.spec import AttentionSpec, attention_spec
from worker.models.loader import EngineConfig, LoadedModel
from worker.runners.limits import Limits, block_size_for, kv_dtype
from worker.runners.probe import PROBE_SEQS, Unsupported, attending_part
from worker.state.kept_blocks import kept_blocks
from worker.state.kv_cache import KVCache, LayerShape, pool_bytes

logger = logging.getLogger(__name__)

SURVEY_NAME = "omni_survey"  # of the attention implementation
QUERIES_AT = (0.3, 0.6, 1.0)  # positions, as shares of the longest sequence


@dataclass(slots=True)
class LayerSurvey:
    """An attention and a mask implementation that compute nothing and record how they are called."""

    max_model_len: int
    found: dict[int, tuple[LayerShape, AttentionSpec]] = field(default_factory=dict)
    num_layers: int = 0  # with or without attention

    @property
    def places(self) -> dict[int, int]:
        """The place in the KV cache of each layer that attends."""
        return {layer_idx: place for place, layer_idx in enumerate(sorted(self.found))}

    def check_all_attend(self) -> None:
        """Raises Unsupported if some layers do not attend."""
        if len(self.found) != self.num_layers:
            raise Unsupported(f"only layers {sorted(self.found)} of {self.num_layers} attend")

    @property
    def shapes(self) -> list[LayerShape]:
        return [self.found[layer_idx][0] for layer_idx in sorted(self.found)]

    @property
    def specs(self) -> list[AttentionSpec]:
        return [self.found[layer_idx][1] for layer_idx in sorted(self.found)]

    @property
    def is_of_latents(self) -> bool:
        """True if the layers attend over latents (worker/runners/latent)."""
        return any(isinstance(spec, LatentSpec) for spec in self.specs)

    def attend(
        self, module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """Called by transformers as the attention. Raises Unsupported."""
        layer_idx, spec = int(module.layer_idx), attention_spec(query, **kwargs)
        if layer_idx in self.found:
            raise Unsupported("a layer attends twice")
        seen = self.seen_through(spec.window, key.device)
        if isinstance(mask, torch.Tensor) and mask.shape == seen.shape and not torch.equal(mask, seen):
            raise Unsupported(f"layer {layer_idx} sees other tokens than the last {spec.window or 'ones, all of them'}")
        self.found[layer_idx] = LayerShape(key.shape[1], key.shape[3], value.shape[3]), spec
        return query.new_zeros(1, query.shape[2], query.shape[1], value.shape[3]), None

    def mask(self, *, mask_function: Callable[..., torch.Tensor], device: torch.device, **_: Any) -> torch.Tensor:
        """Called by transformers for the mask: [1, 1, queries, max_model_len], True where a query sees a key."""
        queries, keys = self.positions(device)
        first = torch.zeros(1, 1, dtype=torch.long, device=device)  # sequence, and head
        return mask_function(first, first, queries, keys).expand(len(queries), keys.shape[1])[None, None]

    def seen_through(self, window: int | None, device: torch.device) -> torch.Tensor:
        """PagedAttention's mask, in the shape of mask()."""
        queries, keys = self.positions(device)
        seen = keys <= queries
        return (seen if window is None else seen & (keys > queries - window))[None, None]

    def positions(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions of the surveyed queries, [queries, 1], and of all keys, [1, max_model_len]."""
        queries = [int(part * (self.max_model_len - 1)) for part in QUERIES_AT]
        keys = torch.arange(self.max_model_len, device=device)
        return torch.tensor(queries, device=device)[:, None], keys[None]


@torch.inference_mode()
def survey_layers(model: Any, max_model_len: int) -> LayerSurvey:
    """Run one forward pass, for which the model's attention is replaced. Raises Unsupported if we cannot attend so."""
    layers = LayerSurvey(max_model_len)
    AttentionInterface.register(SURVEY_NAME, layers.attend)
    AttentionMaskInterface.register(SURVEY_NAME, layers.mask)
    attending_part(model).set_attn_implementation(SURVEY_NAME)
    device = next(model.parameters()).device
    try:
        model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device), use_cache=False)
    except Unsupported:
        raise
    except Exception as error:  # models of any kind are tried here
        raise Unsupported(f"its forward pass does not take our attention ({type(error).__name__}: {error})") from error
    layers.num_layers = model.config.get_text_config().num_hidden_layers
    return layers


def cache_to_serve(
    loaded: LoadedModel,
    layers: LayerSurvey,
    limits: Limits,
    config: EngineConfig,
    layout: str,
    *,
    shares_prefixes: bool,
) -> KVCache:
    """The model's KV cache, on a CPU with what a dead worker has left. `layout`: names how a block holds a head."""
    dtype = kv_dtype(loaded, config)
    room = limits.num_blocks, limits.block_size, dtype, loaded.device
    blocks = None
    if loaded.kept is not None and loaded.kept.keep.outlives_us and loaded.device.type == "cpu" and shares_prefixes:
        form = repr((layers.shapes, limits.block_size, str(dtype), limits.capacity, layout)).encode()
        num_bytes = pool_bytes(layers.shapes, limits.capacity * limits.block_size, dtype)
        name = f"kv:{loaded.kept.key}:{loaded.card.queue}"  # two queues of one model write to pages of their own
        try:
            digest = hashlib.sha256(form).digest()
            blocks = kept_blocks(loaded.kept.keep, name, digest, limits.capacity, num_bytes)
        except OSError as error:
            logger.warning("keys and values are not kept for a successor of this process: %s", error)
    return KVCache(
        layers.shapes, *room, shares_prefixes=shares_prefixes, capacity=limits.capacity, kept=blocks, arena=loaded.arena
    )


def cache_to_try(
    loaded: LoadedModel, layers: LayerSurvey, num_tokens: int, dtype: torch.dtype | None = None
) -> KVCache:
    """A KV cache just large enough for the probe, with sequences of this length."""
    block_size = block_size_for(loaded.device)
    num_blocks = PROBE_SEQS * -(-num_tokens // block_size)
    return KVCache(layers.shapes, num_blocks, block_size, dtype or loaded.dtype, loaded.device)
