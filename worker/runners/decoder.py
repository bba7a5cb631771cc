"""Runs Llama-like models without transformers' modules: the same weights, a fraction of the operators.

Llama, Mistral, Qwen2, Qwen3 and similar families differ only in the parts that are looked up here. A model that has the
same parts but computes something else fails the probe, which compares logits before anything is served.
"""

from collections.abc import Sequence as Seq
from collections.abc import Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from worker.attention.paged import Attention, PagedAttention
from worker.attention.spec import AttentionSpec
from worker.kernels.elementwise import rotate, swiglu
from worker.kernels.fused import fused_linear
from worker.kernels.linear import Linear, drop_weights
from worker.kernels.proxies import proxies
from worker.kernels.quantized import Quantization
from worker.models.features import FeatureTap
from worker.runners.base import AttentionMaker, ModelRunner
from worker.runners.probe import Unsupported
from worker.state.kv_cache import KVCache

LAYER_PARTS = frozenset({"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"})
QKV, GATE_UP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
ATTENTION_PARTS = frozenset({*QKV, "o_proj"})
HEAD_NORMS = frozenset({"q_norm", "k_norm"})
MLP_PARTS = frozenset({*GATE_UP, "down_proj", "act_fn"})
Rotation = tuple[torch.Tensor, torch.Tensor]  # cos and sin of a step's tokens


class Norm:
    """Root mean square norm over the last dimension."""

    def __init__(self, module: Any) -> None:
        self.weight = module.weight.detach()
        self.eps = float(getattr(module, "variance_epsilon", getattr(module, "eps", 1e-6)))
        self.shape = tuple(self.weight.shape)


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. Products that read the same input are fused."""

    attention_norm: Norm
    qkv: Linear
    head_norms: tuple[Norm, Norm] | None  # of queries and keys, before the rotation
    attention_out: Linear
    mlp_norm: Norm
    gate_up: Linear
    down: Linear
    spec: AttentionSpec


class DecoderRunner(ModelRunner):
    """Runs the layers over flat tokens, [T, hidden]."""

    def __init__(
        self,
        model: Any,
        kv_cache: KVCache,
        specs: Seq[AttentionSpec],
        attend_with: AttentionMaker = PagedAttention,
        quantization: Quantization | None = None,
    ) -> None:
        """`specs`: how each layer attends. Raises Unsupported for a model with other parts than those known here."""
        super().__init__(model, kv_cache, attend_with)
        check_parts(model, {"model", "lm_head"})
        body = model.model
        check_parts(body, {"embed_tokens", "layers", "norm", "rotary_emb"})
        check_are_plain(model, {"lm_head"})
        self.shape = kv_cache.shapes[0]
        if any(shape != self.shape or shape.key_dim != shape.value_dim for shape in kv_cache.shapes):
            raise Unsupported("its layers differ in shape")
        self.embedding = body.embed_tokens.weight.detach()
        self.rotary = body.rotary_emb
        self.layers = [layer_of(module, spec, quantization) for module, spec in zip(body.layers, specs, strict=True)]
        self.num_axes = num_axes_of(self.rotary)
        self.num_rotated = self._count_rotated()  # numbers of each head, the first ones
        self.num_heads = body.layers[0].self_attn.o_proj.in_features // self.shape.value_dim
        self.norm = Norm(body.norm)
        self.head = fused_linear([model.lm_head], quantization and quantization.for_head())

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """See ModelRunner."""
        return F.embedding(token_ids, self.embedding)

    def project(self, normed: torch.Tensor) -> torch.Tensor:
        """See ModelRunner."""
        return self.head(normed)

    def release_weights(self) -> None:
        """Free the model's own copies of packed weights. The model itself can no longer run."""
        linears = [module for module in self.model.model.layers.modules() if isinstance(module, nn.Linear)]
        drop_weights([*linears, self.model.lm_head])

    def share_weights(self) -> None:
        """As release_weights(), for a model that still has to run: its layers compute with the packed weights."""
        for module, layer in zip(self.model.model.layers, self.layers, strict=True):
            for linear, owner, names in (
                (layer.qkv, module.self_attn, QKV),
                (layer.attention_out, module.self_attn, ("o_proj",)),
                (layer.gate_up, module.mlp, GATE_UP),
                (layer.down, module.mlp, ("down_proj",)),
            ):
                replaced = [getattr(owner, name) for name in names]
                for name, part in zip(names, proxies(linear, replaced), strict=True):
                    setattr(owner, name, part)
        self.model.set_output_embeddings(*proxies(self.head, [self.model.lm_head]))

    def _run(
        self, inputs: torch.Tensor, positions: torch.Tensor, paged: Attention, selected: torch.Tensor
    ) -> torch.Tensor:
        hidden = F.embedding(inputs, self.embedding)
        rotation = self._rotation(hidden, positions)
        next_norms = [*(layer.attention_norm for layer in self.layers[1:]), self.norm]
        normed = self._normed(hidden, self.layers[0].attention_norm)
        tap = FeatureTap(self.feature_layers, len(self.layers))
        for layer_idx, (layer, next_norm) in enumerate(zip(self.layers, next_norms, strict=True)):
            tap.take(layer_idx, hidden)
            attended = self._attend(layer_idx, layer, normed, rotation, paged)
            if next_norm is self.norm and not tap.needs_all_tokens:  # the rest is computed only for wanted logits
                hidden, attended = hidden[selected], attended[selected]
            hidden, normed = self._add_norm(hidden, layer.attention_out(attended), layer.mlp_norm)
            mlp_out = layer.down(self._gated(layer.gate_up(normed)))
            hidden, normed = self._add_norm(hidden, mlp_out, next_norm)
        return self._logits(tap, hidden, normed, selected)

    def _logits(
        self, tap: FeatureTap, hidden: torch.Tensor, normed: torch.Tensor, selected: torch.Tensor
    ) -> torch.Tensor:
        """The pass's end: `hidden` and `normed` of all tokens where the tap needs them, else of the selected ones."""
        if tap.needs_all_tokens:
            tap.take(len(self.layers), hidden)
            tap.take(len(self.layers) + 1, normed)
            normed = normed[selected]
        self.kept = tap.features
        return self.head(normed)

    def _normed(self, hidden: torch.Tensor, norm: Norm) -> torch.Tensor:
        return torch.rms_norm(hidden, norm.shape, norm.weight, norm.eps)

    def _add_norm(self, hidden: torch.Tensor, change: torch.Tensor, norm: Norm) -> tuple[torch.Tensor, torch.Tensor]:
        """The residual stream plus `change`, and its norm; all [T, hidden]."""
        hidden = hidden + change
        return hidden, self._normed(hidden, norm)

    def _gated(self, gate_up: torch.Tensor) -> torch.Tensor:
        """[T, 2 * width] -> [T, width]."""
        return swiglu(gate_up)

    def _attend(
        self, layer_idx: int, layer: Layer, normed: torch.Tensor, rotation: Rotation, paged: Attention
    ) -> torch.Tensor:
        """The attention of one layer, [T, heads * dim]; its keys and values are written to the cache."""
        num_tokens, dim, heads, kv_heads = len(normed), self.shape.key_dim, self.num_heads, self.shape.num_kv_heads
        qkv = layer.qkv(normed)
        rotated = qkv[:, : (heads + kv_heads) * dim].view(num_tokens, heads + kv_heads, dim)
        if layer.head_norms is not None:
            query_norm, key_norm = layer.head_norms
            rotated[:, :heads] = self._normed(rotated[:, :heads], query_norm)
            rotated[:, heads:] = self._normed(rotated[:, heads:], key_norm)
        rotate(rotated[..., : self.num_rotated], *rotation)
        value = qkv[:, (heads + kv_heads) * dim :].view(num_tokens, kv_heads, dim)
        paged.write(layer_idx, rotated[:, heads:], value)
        return paged.attend(layer_idx, rotated[:, :heads], layer.spec).flatten(1)

    def _rotation(self, hidden: torch.Tensor, positions: torch.Tensor) -> Rotation:
        """cos, and sin with the signs of rotate_half, [T, 1, dim]."""
        cos, sin = self._cos_sin(hidden, positions)
        half = sin.shape[-1] // 2
        signed = torch.cat([-sin[:, :half], sin[:, half:]], dim=-1)
        return cos[:, None], signed[:, None]

    def _count_rotated(self) -> int:
        device = self.embedding.device
        cos, _ = self._cos_sin(torch.zeros(1, device=device), torch.zeros(1, dtype=torch.long, device=device))
        if cos.shape[1] > self.shape.key_dim or cos.shape[1] % 2:
            raise Unsupported(f"it rotates {cos.shape[1]} of the {self.shape.key_dim} numbers of a head")
        return int(cos.shape[1])

    def _cos_sin(self, hidden: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin, [T, num_rotated] each, of text tokens, which have the same position on every axis."""
        if self.num_axes == 1:
            cos, sin = self.rotary(hidden, positions[None])
        else:
            cos, sin = (part[0] for part in self.rotary(hidden, positions.expand(self.num_axes, 1, -1)))
        return cos[0], sin[0]


def num_axes_of(rotary: Any) -> int:
    """The numbers of a token's position: one, or three (time, height, width) in some vision families."""
    device = next(rotary.buffers()).device
    hidden, positions = torch.zeros(1, device=device), torch.zeros(3, 1, 2, dtype=torch.long, device=device)
    try:
        is_one = rotary(hidden, positions[0])[0].dim() == 3
    except (IndexError, RuntimeError):
        is_one = False
    return 1 if is_one else 3


def layer_of(module: Any, spec: AttentionSpec, quantization: Quantization | None) -> Layer:
    """Raises Unsupported for a layer with other parts than those computed here."""
    check_parts(module, LAYER_PARTS)
    attention, mlp = module.self_attn, module.mlp
    has_head_norms = hasattr(attention, "q_norm")
    check_parts(attention, ATTENTION_PARTS | HEAD_NORMS if has_head_norms else ATTENTION_PARTS)
    check_parts(mlp, MLP_PARTS)
    check_are_plain(attention, ATTENTION_PARTS)
    check_are_plain(mlp, MLP_PARTS - {"act_fn"})
    check_is_silu(mlp.act_fn)
    linear = partial(fused_linear, quantization=quantization)
    return Layer(
        attention_norm=Norm(module.input_layernorm),
        qkv=linear([getattr(attention, name) for name in QKV]),
        head_norms=(Norm(attention.q_norm), Norm(attention.k_norm)) if has_head_norms else None,
        attention_out=linear([attention.o_proj]),
        mlp_norm=Norm(module.post_attention_layernorm),
        gate_up=linear([getattr(mlp, name) for name in GATE_UP]),
        down=linear([mlp.down_proj]),
        spec=spec,
    )


def check_parts(module: Any, expected: Set[str]) -> None:
    """Raises Unsupported unless the module has exactly these parts."""
    found = {name for name, _ in module.named_children()}
    if found != expected:
        raise Unsupported(f"{type(module).__name__} has the parts {sorted(found)}")


def check_are_plain(module: Any, names: Set[str]) -> None:
    """Raises Unsupported unless these parts are plain linear layers; a quantized layer has scales too."""
    for name in sorted(names):
        kind = type(getattr(module, name))
        if kind is not nn.Linear:
            raise Unsupported(f"{name} is a {kind.__name__}")


def check_is_silu(activation: Any) -> None:
    """Raises Unsupported unless the activation computes SiLU."""
    inputs = torch.linspace(-8, 8, 33)
    if not torch.equal(activation(inputs), F.silu(inputs)):
        raise Unsupported(f"its activation {type(activation).__name__} is not SiLU")
