"""The parts of a Llama-like decoder layer, read from transformers' modules.

Families differ in the parts that are looked up here: head norms, norms after attention and MLP (Gemma 2 and 3), the
activation, fused projections (Phi 3). A layer with any other part is Unsupported.
"""

from collections.abc import Set
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from worker.attention.spec import AttentionSpec
from worker.kernels.elementwise import ACTIVATIONS
from worker.kernels.fused import PackedBefore, fused_linear
from worker.kernels.linear import Linear
from worker.kernels.quantized import Quantization
from worker.runners.probe import Unsupported

LAYER_PARTS = frozenset({"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"})
GEMMA_NORMS = frozenset({"pre_feedforward_layernorm", "post_feedforward_layernorm"})
HEAD_NORMS = frozenset({"q_norm", "k_norm"})
QKV, GATE_UP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")
FUSED_QKV, FUSED_GATE_UP = ("qkv_proj",), ("gate_up_proj",)
MAX_WEIGHT_ERROR = 0.02  # of a norm's weights, which may be rounded to bf16
MAX_ACTIVATION_ERROR = 1e-6


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
    head_norms: tuple[Norm, Norm] | None  # of queries and keys, before the rotation
    attention_out: Linear
    attention_out_norm: Norm | None  # before the addition
    mlp_norm: Norm
    gate_up: Linear
    activation: str  # of ACTIVATIONS
    down: Linear
    mlp_out_norm: Norm | None  # before the addition
    spec: AttentionSpec
    rotary_kind: str | None  # see Rotary

    @property
    def is_plain(self) -> bool:
        """True for the form of Llama, whose weights of norms have the dtype of the hidden states."""
        norms = [self.attention_norm, self.mlp_norm, *(self.head_norms or ())]
        has_few = self.attention_out_norm is None and self.mlp_out_norm is None
        return has_few and self.activation == "silu" and not any(norm.counts_from_one for norm in norms)


def layer_of(
    module: Any, spec: AttentionSpec, kind: str | None, quantization: Quantization | PackedBefore | None
) -> Layer:
    """Raises Unsupported for a layer with other parts than those computed here."""
    attention, mlp = module.self_attn, module.mlp
    is_gemma, has_head_norms = hasattr(module, "pre_feedforward_layernorm"), hasattr(attention, "q_norm")
    qkv, gate_up = qkv_names(attention), gate_up_names(mlp)
    check_parts(module, LAYER_PARTS | GEMMA_NORMS if is_gemma else LAYER_PARTS)
    check_parts(attention, {*qkv, "o_proj", *(HEAD_NORMS if has_head_norms else ())})
    activation = getattr(mlp, "act_fn", None) or getattr(mlp, "activation_fn", None)
    check_parts(mlp, {*gate_up, "down_proj", "act_fn" if hasattr(mlp, "act_fn") else "activation_fn"})
    check_are_plain(attention, {*qkv, "o_proj"})
    check_are_plain(mlp, {*gate_up, "down_proj"})
    activation_name = name_of(activation)
    linear = partial(fused_linear, quantization=quantization)
    return Layer(
        attention_norm=Norm(module.input_layernorm),
        qkv=linear([getattr(attention, name) for name in qkv]),
        head_norms=(Norm(attention.q_norm), Norm(attention.k_norm)) if has_head_norms else None,
        attention_out=linear([attention.o_proj]),
        attention_out_norm=Norm(module.post_attention_layernorm) if is_gemma else None,
        mlp_norm=Norm(module.pre_feedforward_layernorm if is_gemma else module.post_attention_layernorm),
        gate_up=linear([getattr(mlp, name) for name in gate_up]),
        activation=activation_name,
        down=linear([mlp.down_proj]),
        mlp_out_norm=Norm(module.post_feedforward_layernorm) if is_gemma else None,
        spec=spec,
        rotary_kind=kind,
    )


def qkv_names(attention: Any) -> tuple[str, ...]:
    """The linear layers that make queries, keys and values, in this order."""
    return FUSED_QKV if hasattr(attention, FUSED_QKV[0]) else QKV


def gate_up_names(mlp: Any) -> tuple[str, ...]:
    return FUSED_GATE_UP if hasattr(mlp, FUSED_GATE_UP[0]) else GATE_UP


def parts_of(module: Any) -> tuple[tuple[str, Any, tuple[str, ...]], ...]:
    """The products of a Layer: their names there, and the linear layers in each: their owner and their names."""
    attention, mlp = module.self_attn, module.mlp
    return (
        ("qkv", attention, qkv_names(attention)),
        ("attention_out", attention, ("o_proj",)),
        ("gate_up", mlp, gate_up_names(mlp)),
        ("down", mlp, ("down_proj",)),
    )


def check_parts(module: Any, expected: Set[str]) -> None:
    """Raises Unsupported unless the module has exactly these parts, besides dropout, which serving leaves out."""
    found = {name for name, part in module.named_children() if not isinstance(part, nn.Dropout)}
    if found != expected:
        raise Unsupported(f"{type(module).__name__} has the parts {sorted(found)}")


def check_are_plain(module: Any, names: Set[str]) -> None:
    """Raises Unsupported unless these parts are plain linear layers; a quantized layer has scales too."""
    for name in sorted(names):
        kind = type(getattr(module, name))
        if kind is not nn.Linear:
            raise Unsupported(f"{name} is a {kind.__name__}")


def name_of(activation: Any) -> str:
    """The name in ACTIVATIONS of what the module computes. Raises Unsupported for another activation."""
    inputs = torch.linspace(-8, 8, 33)
    for name, function in ACTIVATIONS.items():
        if torch.allclose(activation(inputs), function(inputs), atol=MAX_ACTIVATION_ERROR, rtol=0):
            return name
    raise Unsupported(f"its activation {type(activation).__name__} is none of {', '.join(ACTIVATIONS)}")
