"""The parts of a Llama-like decoder layer, read from transformers' modules.

Families differ in the parts that are looked up here: head norms, norms after attention and MLP (Gemma 2 and 3), fused
projections (Phi 3), the MLP. A layer with any other part is Unsupported.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace
from functools import partial, reduce
from typing import Any

import torch

from worker.attention.spec import AttentionSpec
from worker.kernels.fused import PackedBefore, fused_linear
from worker.kernels.linear import Linear
from worker.kernels.quantized import Quantization
from worker.runners.parts.mlp import DenseMlp, Mlp, Product, check_are_plain, check_parts, mlp_of, mlp_parts
from worker.runners.probe import Unsupported

LAYER_PARTS = frozenset({"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"})
GEMMA_NORMS = frozenset({"pre_feedforward_layernorm", "post_feedforward_layernorm"})
HEAD_NORMS = frozenset({"q_norm", "k_norm"})
QKV, FUSED_QKV = ("q_proj", "k_proj", "v_proj"), ("qkv_proj",)
MAX_WEIGHT_ERROR = 0.02  # of a norm's weights, which may be rounded to bf16


class Norm:
    """Root mean square norm over the last dimension. `weight` is what it multiplies by: 1 + w where w is stored."""

    def __init__(self, module: Any) -> None:
        """Raises Unsupported for a module that computes something else."""
        weight = module.weight.detach()
        self.eps = float(getattr(module, "variance_epsilon", getattr(module, "eps", 1e-6)))
        self.shape = tuple(weight.shape)
        used = module(torch.ones(1, *self.shape, dtype=weight.dtype, device=weight.device))[0].float()
        choices = (weight, 1 + weight.float())  # the second stays float32: bf16 would round it
        is_close = [torch.allclose(used, choice.float(), MAX_WEIGHT_ERROR, MAX_WEIGHT_ERROR) for choice in choices]
        if not any(is_close):
            raise Unsupported(f"{type(module).__name__} is another norm")
        self.counts_from_one = not is_close[0]
        self.weight = choices[is_close.index(True)]


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. Products that read the same input are fused."""

    attention_norm: Norm
    qkv: Linear
    head_norms: tuple[Norm, Norm] | None  # of each head of queries and keys, before the rotation
    row_norms: tuple[Norm, Norm] | None  # of all queries and all keys of a token, before the rotation
    attention_out: Linear
    attention_out_norm: Norm | None  # before the addition
    mlp_norm: Norm
    mlp: Mlp
    mlp_out_norm: Norm | None  # before the addition
    spec: AttentionSpec
    rotary_kind: str | None  # see Rotary

    @property
    def is_plain(self) -> bool:
        """True for the form of Llama, whose weights of norms have the dtype of the hidden states."""
        has_few = self.attention_out_norm is None and self.mlp_out_norm is None
        return has_few and self.has_silu and not any(norm.counts_from_one for norm in self.norms)

    @property
    def norms(self) -> list[Norm]:
        """All but those before additions."""
        return [self.attention_norm, self.mlp_norm, *(self.head_norms or ()), *(self.row_norms or ())]

    @property
    def has_silu(self) -> bool:
        """True if the activation of what all tokens compute is SiLU; experts have their own."""
        dense = self.mlp if isinstance(self.mlp, DenseMlp) else self.mlp.shared
        return dense is None or dense.activation == "silu"


def layer_of(
    module: Any, spec: AttentionSpec, kind: str | None, quantization: Quantization | PackedBefore | None
) -> Layer:
    """Raises Unsupported for a layer with other parts than those computed here."""
    attention = module.self_attn
    qkv = qkv_names(attention)
    is_gemma, has_head_norms = hasattr(module, "pre_feedforward_layernorm"), hasattr(attention, "q_norm")
    check_parts(module, LAYER_PARTS | GEMMA_NORMS if is_gemma else LAYER_PARTS)
    check_parts(attention, {*qkv, "o_proj", *(HEAD_NORMS if has_head_norms else ())})
    check_are_plain(attention, {*qkv, "o_proj"})
    linear = partial(fused_linear, quantization=quantization)
    norms = (Norm(attention.q_norm), Norm(attention.k_norm)) if has_head_norms else None
    of_rows = norms is not None and norms[0].shape[0] != attention.head_dim
    return Layer(
        attention_norm=Norm(module.input_layernorm),
        qkv=linear([getattr(attention, name) for name in qkv]),
        head_norms=None if of_rows else norms,
        row_norms=norms if of_rows else None,
        attention_out=linear([attention.o_proj]),
        attention_out_norm=Norm(module.post_attention_layernorm) if is_gemma else None,
        mlp_norm=Norm(module.pre_feedforward_layernorm if is_gemma else module.post_attention_layernorm),
        mlp=mlp_of(module.mlp, quantization),
        mlp_out_norm=Norm(module.post_feedforward_layernorm) if is_gemma else None,
        spec=spec,
        rotary_kind=kind,
    )


def qkv_names(attention: Any) -> tuple[str, ...]:
    """The linear layers that make queries, keys and values, in this order."""
    return FUSED_QKV if hasattr(attention, FUSED_QKV[0]) else QKV


def attention_parts(attention: Any) -> Iterator[Product]:
    """The products of a Layer's attention."""
    yield ("qkv",), attention, qkv_names(attention)
    yield ("attention_out",), attention, ("o_proj",)


def parts_of(module: Any) -> Iterator[Product]:
    """The products of linear layers in a Layer."""
    yield from attention_parts(module.self_attn)
    yield from mlp_parts(module.mlp)


def product_at(part: Any, path: Seq[str]) -> Any:
    """What stands at a path of attributes."""
    return reduce(getattr, path, part)


def with_product(part: Any, path: Seq[str], product: Any) -> Any:
    """The part, of frozen dataclasses, with another product at the path."""
    name, *rest = path
    return replace(part, **{name: with_product(getattr(part, name), rest, product) if rest else product})
