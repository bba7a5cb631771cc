"""A decoder layer that attends over latents, read from transformers' modules.

Keys and values of all heads are products of a token's latent. So a query is multiplied by the keys' matrix instead, and
what it attended to by the values': decoding reads one vector of each token, and keys are never made.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from worker.attention.latent.spec import LatentSpec
from worker.kernels.fused import PackedBefore, fused_linear
from worker.kernels.linear import Linear, PlainLinear
from worker.kernels.packed.tensor import PackedTensor
from worker.kernels.quantized import Quantization
from worker.runners.parts.layers import LAYER_PARTS, Layer, Norm, parts_of
from worker.runners.parts.mlp import Product, check_are_plain, check_parts, mlp_of, mlp_parts
from worker.runners.probe import Unsupported

QUERY_PARTS = frozenset({"q_a_proj", "q_a_layernorm", "q_b_proj"})  # of queries that are made of latents of their own
OTHER_PARTS = frozenset({"kv_a_proj_with_mqa", "kv_a_layernorm", "kv_b_proj", "o_proj"})
INDEXER_PARTS = frozenset({"wq_b", "wk", "k_norm", "weights_proj"})
INTERLEAVED = frozenset({"glm_moe_dsa"})  # types of models in whose indexers, too, neighbours are rotated together


@dataclass(frozen=True, slots=True, eq=False)
class Indexer:
    """What scores keys for each token: index queries of some heads, and index keys, one a token."""

    num_heads: int
    dim: int
    key_norm: nn.LayerNorm
    head_weights: Linear  # float32 [T, hidden] -> [T, heads]
    scale: float  # of the sum over the heads
    interleaves: bool  # numbers that are rotated together are neighbours

    def normed(self, keys: torch.Tensor) -> torch.Tensor:
        """Index keys [T, dim]."""
        norm = self.key_norm
        return F.layer_norm(keys, norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    def weights(self, normed: torch.Tensor) -> torch.Tensor:
        """Of the heads' scores, [T, heads] float32, for the layer's input [T, hidden]."""
        return self.head_weights(normed.float()) * self.scale


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatentLayer(Layer):
    """`qkv` makes what is made of the layer's input: queries or their latents, latents, index keys."""

    spec: LatentSpec
    num_heads: int
    num_rotated: int  # numbers of each query, the last ones, and of each latent
    interleaves: bool  # numbers that are rotated together are neighbours
    query_norm: Norm | None  # of the queries' latents; None: `qkv` makes the queries
    queries: Linear | None  # these latents -> queries of all heads, then index queries
    latent_norm: Norm
    key_up: torch.Tensor  # [heads, numbers of a query that are not rotated, rank]
    value_up: torch.Tensor  # [heads, rank, value's dim]
    indexer: Indexer | None
    follows: bool  # attends to the keys that were chosen last, by a layer before it

    @property
    def query_dim(self) -> int:
        """Of a head."""
        return self.key_up.shape[1] + self.num_rotated

    @property
    def norms(self) -> list[Norm]:
        """See Layer."""
        own = [self.attention_norm, self.mlp_norm, self.latent_norm]
        return own if self.query_norm is None else [*own, self.query_norm]

    @property
    def widths(self) -> list[int]:
        """Of what `qkv` makes."""
        queries = self.num_heads * self.query_dim if self.query_norm is None else self.query_norm.shape[0]
        return [queries, self.spec.rank + self.num_rotated, 0 if self.indexer is None else self.indexer.dim]

    @property
    def attention_products(self) -> list[Linear]:
        """In the order in which they are made."""
        return [self.qkv, *([] if self.queries is None else [self.queries]), self.attention_out]


def latent_layer_of(
    module: Any, spec: LatentSpec, kind: str | None, quantization: Quantization | PackedBefore | None
) -> LatentLayer:
    """Raises Unsupported for a layer with other parts than those computed here."""
    attention, config = module.self_attn, module.self_attn.config
    indexer = getattr(attention, "indexer", None)
    has_latents = hasattr(attention, "q_a_layernorm") and attention.q_a_layernorm is not None
    check_parts(module, LAYER_PARTS)
    check_parts(
        attention,
        {*(QUERY_PARTS if has_latents else {"q_proj"}), *OTHER_PARTS, *([] if indexer is None else ["indexer"])},
    )
    check_are_plain(attention, {"kv_b_proj"})
    qkv, *queries, attention_out = (
        product_of(attention, names, quantization) for _, names in attention_names(attention)
    )
    key_up, value_up = both_ups(attention, quantization)
    return LatentLayer(
        attention_norm=Norm(module.input_layernorm),
        qkv=qkv,
        head_norms=None,
        row_norms=None,
        attention_out=attention_out,
        attention_out_norm=None,
        mlp_norm=Norm(module.post_attention_layernorm),
        mlp=mlp_of(module.mlp, quantization),
        mlp_out_norm=None,
        spec=spec,
        rotary_kind=kind,
        num_heads=attention.num_heads,
        num_rotated=attention.qk_rope_head_dim,
        interleaves=bool(getattr(config, "rope_interleave", True)),
        query_norm=Norm(attention.q_a_layernorm) if has_latents else None,
        queries=queries[0] if queries else None,
        latent_norm=Norm(attention.kv_a_layernorm),
        key_up=key_up,
        value_up=value_up,
        indexer=None if indexer is None else indexer_of(indexer, quantization),
        follows=bool(getattr(attention, "skip_topk", False)),
    )


def product_of(attention: Any, names: tuple[str, ...], quantization: Quantization | PackedBefore | None) -> Linear:
    """Of linear layers side by side. Raises Unsupported for layers of another kind, or of which some have biases."""
    modules = [attention.get_submodule(name) for name in names]
    for name, module in zip(names, modules, strict=True):
        if type(module) is not nn.Linear:
            raise Unsupported(f"{name} is a {type(module).__name__}")
    if len({module.bias is None for module in modules}) > 1:
        raise Unsupported(f"some of {', '.join(names)} have biases")
    return fused_linear(modules, quantization)


def attention_names(attention: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The products of a LatentLayer's attention, and the linear layers in each, in the order in which they are made."""
    has_latents = attention.q_lora_rank is not None
    has_indexer = getattr(attention, "indexer", None) is not None
    yield (
        "qkv",
        ("q_a_proj" if has_latents else "q_proj", "kv_a_proj_with_mqa", *(["indexer.wk"] if has_indexer else [])),
    )
    if has_latents:
        yield "queries", ("q_b_proj", *(["indexer.wq_b"] if has_indexer else []))
    yield "attention_out", ("o_proj",)


def latent_parts_of(module: Any) -> Iterator[Product]:
    """The products of linear layers in a LatentLayer."""
    for name, names in attention_names(module.self_attn):
        yield (name,), module.self_attn, names
    yield from mlp_parts(module.mlp)


def any_parts_of(module: Any) -> Iterator[Product]:
    """As parts_of(), for a layer that attends over latents or another way."""
    return latent_parts_of(module) if hasattr(module.self_attn, "kv_b_proj") else parts_of(module)


def both_ups(attention: Any, quantization: Quantization | PackedBefore | None) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrices that make keys and values of latents: [heads, key's dim, rank] and [heads, rank, value's dim].

    Copies on a CPU, whose products of few rows read a slice a hundred times as slowly; on a GPU slices.
    """
    if isinstance(quantization, PackedBefore):
        return quantization.take_tensor(), quantization.take_tensor()
    weight = attention.kv_b_proj.weight
    dense = weight.dense() if isinstance(weight, PackedTensor) else weight.detach()
    of_heads = dense.view(attention.num_heads, -1, dense.shape[1])
    key_up, value_up = of_heads.split([attention.qk_nope_head_dim, attention.v_head_dim], dim=1)
    value_up = value_up.transpose(1, 2)
    return (key_up.contiguous(), value_up.contiguous()) if dense.device.type == "cpu" else (key_up, value_up)


def indexer_of(module: Any, quantization: Quantization | PackedBefore | None) -> Indexer:
    """Raises Unsupported for an indexer with other parts than those computed here."""
    check_parts(module, INDEXER_PARTS)
    if type(module.k_norm) is not nn.LayerNorm:
        raise Unsupported(f"the index keys' norm is a {type(module.k_norm).__name__}")
    if isinstance(quantization, PackedBefore):
        head_weights = quantization.take()
    else:
        weight = module.weights_proj.weight
        dense = weight.dense() if isinstance(weight, PackedTensor) else weight.detach()
        head_weights = PlainLinear(dense.float(), None)
    return Indexer(
        num_heads=module.n_heads,
        dim=module.head_dim,
        key_norm=module.k_norm,
        head_weights=head_weights,
        scale=float(module.softmax_scale * module.n_heads**-0.5),
        interleaves=module.config.model_type in INTERLEAVED,
    )
