"""EAGLE-3 heads: a folder of their own beside the model's.

Names of tensors and the order of the layer's inputs as in vLLM's llama_eagle3.py and SGLang's llama_eagle3.py.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, PreTrainedConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from worker.attention.paged import Attention, PagedAttention
from worker.attention.spec import AttentionSpec
from worker.drafting.heads import HeadGuesser
from worker.kernels.elementwise import rotate, swiglu
from worker.kernels.experts.placing import HostedExperts
from worker.kernels.fused import fused_linear
from worker.models.loader import LoadedModel
from worker.runners.base import AttentionMaker, ModelRunner
from worker.runners.candidates import attention_makers
from worker.state.kv_cache import KVCache, LayerShape

LAYER = "midlayer."
ALIASES = (("model.", ""), ("layers.0.", LAYER))  # other spellings of the names' beginnings
QKV = tuple(f"{LAYER}self_attn.{name}_proj" for name in "qkv")
ATTENTION_OUT = f"{LAYER}self_attn.o_proj"
GATE_UP = (f"{LAYER}mlp.gate_proj", f"{LAYER}mlp.up_proj")
DOWN = f"{LAYER}mlp.down_proj"
LINEARS = ("fc", *QKV, ATTENTION_OUT, *GATE_UP, DOWN, "lm_head")
EMBEDDING_NORM, HIDDEN_NORM = f"{LAYER}input_layernorm.weight", f"{LAYER}hidden_norm.weight"
MLP_NORM, FINAL_NORM = f"{LAYER}post_attention_layernorm.weight", "norm.weight"
NORMS = (EMBEDDING_NORM, HIDDEN_NORM, MLP_NORM, FINAL_NORM)
EMBEDDING, TO_MODEL, FROM_MODEL = "embed_tokens.weight", "d2t", "t2d"
OPTIONAL = frozenset({EMBEDDING, TO_MODEL, FROM_MODEL, *(f"{name}.bias" for name in LINEARS)})


class Eagle3Head:
    """One layer that reads a token's embedding and the model's hidden states side by side."""

    hosted: HostedExperts | None = None  # it has no experts

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], loaded: LoadedModel) -> None:
        """Raises ValueError for a head that was not made for the model, or is of a form unknown here."""
        own = LlamaConfig.from_dict(dict(config))
        text = loaded.model.config.get_text_config()
        check_fits(config, own, text)
        check_names(tensors)
        self.feature_layers = feature_layers_of(config, text.num_hidden_layers)
        check_shape(tensors, "fc", own.hidden_size, len(self.feature_layers) * text.hidden_size)
        for name, heads in zip(QKV, (own.num_attention_heads, *[own.num_key_value_heads] * 2), strict=True):
            check_shape(tensors, name, heads * own.head_dim, 2 * own.hidden_size)
        self.dtype = loaded.dtype
        self.attend_with: AttentionMaker = PagedAttention
        tensors = {
            name: tensor.to(loaded.device, self.dtype if tensor.is_floating_point() else None)
            for name, tensor in tensors.items()
        }
        kv_heads, dim = own.num_key_value_heads, own.head_dim
        self.shape = LayerShape(kv_heads, dim, dim)
        self.num_heads = own.num_attention_heads
        self.eps = own.rms_norm_eps
        self.spec = AttentionSpec(dim**-0.5)
        self.rotary = LlamaRotaryEmbedding(own).to(loaded.device)
        self.norms_residual = bool(config.get("norm_before_residual", False))
        self.norms = {name: tensors[name] for name in NORMS}
        self.combining = fused_linear([linear_of(tensors, "fc")])
        self.qkv = fused_linear([linear_of(tensors, name) for name in QKV])
        self.attention_out = fused_linear([linear_of(tensors, ATTENTION_OUT)])
        self.gate_up = fused_linear([linear_of(tensors, name) for name in GATE_UP])
        self.down = fused_linear([linear_of(tensors, DOWN)])
        self.lm_head = fused_linear([linear_of(tensors, "lm_head")])
        self.embedding = tensors.get(EMBEDDING)
        self.offsets = offsets_of(tensors, text.vocab_size)

    def bind(self, runner: ModelRunner, kv_cache: KVCache) -> None:
        """See DraftHead."""
        self.runner, self.kv_cache = runner, kv_cache
        if runner.attend_with in attention_makers(self.rotary.inv_freq.device):  # another one is the runner's own
            self.attend_with = runner.attend_with

    def recorded_attention(self, tensors: Any, max_queries: int) -> Attention:
        """See DraftHead."""
        from worker.attention.kernel import KernelAttention

        return KernelAttention(self.kv_cache, tensors, max_queries)

    def combine(self, features: torch.Tensor) -> torch.Tensor:
        """See DraftHead."""
        return self.combining(features)

    def run(
        self, token_ids: torch.Tensor, before: torch.Tensor, positions: torch.Tensor, paged: Attention
    ) -> torch.Tensor:
        """See DraftHead. The states are those before the final norm."""
        embedded = nn.functional.embedding(token_ids, self.embedding) if self.embedding is not None else None
        embedded = embedded if embedded is not None else self.runner.embed(token_ids)
        normed = self._norm(before, HIDDEN_NORM)
        attended = self._attend(torch.cat([self._norm(embedded, EMBEDDING_NORM), normed], dim=-1), positions, paged)
        hidden = (normed if self.norms_residual else before) + self.attention_out(attended)
        return hidden + self.down(swiglu(self.gate_up(self._norm(hidden, MLP_NORM))))

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """See DraftHead."""
        return self.lm_head(self._norm(states, FINAL_NORM))

    def model_ids(self, token_ids: torch.Tensor) -> torch.Tensor:
        """See DraftHead."""
        return token_ids if self.offsets is None else token_ids + self.offsets[token_ids]

    def _norm(self, inputs: torch.Tensor, name: str) -> torch.Tensor:
        weight = self.norms[name]
        return torch.rms_norm(inputs, weight.shape, weight, self.eps)

    def _attend(self, inputs: torch.Tensor, positions: torch.Tensor, paged: Attention) -> torch.Tensor:
        """[T, 2 * width] -> [T, heads * dim]."""
        num_tokens, heads, kv_heads, dim = len(inputs), self.num_heads, self.shape.num_kv_heads, self.shape.key_dim
        qkv = self.qkv(inputs).view(num_tokens, -1, dim)
        query_key, value = qkv[:, : heads + kv_heads], qkv[:, heads + kv_heads :]
        cos, sin = self.rotary(inputs, positions[None])
        signed_sin = torch.cat([-sin[0, :, : dim // 2], sin[0, :, dim // 2 :]], dim=-1)
        query_key = rotate(query_key, cos[0, :, None], signed_sin[:, None])
        paged.write(0, query_key[:, heads:], value)
        return paged.attend(0, query_key[:, :heads], self.spec).flatten(1)


def load_eagle3(model: str, loaded: LoadedModel) -> HeadGuesser | None:
    """The head in a folder or hub repository; None if it holds something else. Raises ValueError."""
    config, _ = PreTrainedConfig.get_config_dict(model)
    config = flattened(config)
    if not is_eagle3(config):
        return None
    if loaded.images is not None:
        raise ValueError("heads guess for models of text only.")
    folder = Path(model)
    if not folder.is_dir():
        folder = Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors"]))
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError("it has no .safetensors file.")
    tensors: dict[str, torch.Tensor] = {}
    for file in files:
        tensors |= {plain_name(name): tensor for name, tensor in load_file(file).items()}
    return HeadGuesser(Eagle3Head(config, tensors, loaded), loaded)


def is_eagle3(config: Mapping[str, Any]) -> bool:
    names = (*(config.get("architectures") or ()), config.get("speculators_model_type") or "")
    return "draft_vocab_size" in config or any("eagle3" in name.lower() for name in names)


def flattened(config: dict[str, Any]) -> dict[str, Any]:
    """The config of one form: speculators' has the layer's own fields one level down."""
    inner = config.get("transformer_layer_config")
    return config if inner is None else inner | {key: value for key, value in config.items() if key not in inner}


def plain_name(name: str) -> str:
    for beginning, usual in ALIASES:
        if name.startswith(beginning):
            name = usual + name[len(beginning) :]
    return name


def feature_layers_of(config: Mapping[str, Any], num_layers: int) -> tuple[int, ...]:
    """The config's, else the three that EAGLE-3 is trained with by default.

    `eagle_config` counts layers from 0 and means their outputs; the field of the same name beside it means inputs.
    """
    outputs = (config.get("eagle_config") or {}).get("eagle_aux_hidden_state_layer_ids")
    inputs = config.get("eagle_aux_hidden_state_layer_ids")
    if inputs:
        return tuple(inputs)
    if outputs:
        return tuple(layer + 1 for layer in outputs)
    return (2, num_layers // 2, num_layers - 3)


def check_fits(config: Mapping[str, Any], own: LlamaConfig, text: Any) -> None:
    """Raises ValueError unless the head was made for a model of this configuration and is one plain layer."""
    width = config.get("target_hidden_size") or own.hidden_size
    if width != text.hidden_size:
        raise ValueError(f"it reads hidden states of {width} numbers, and the model's have {text.hidden_size}.")
    if own.vocab_size != text.vocab_size:
        raise ValueError(f"it was made for a vocabulary of {own.vocab_size}, and the model's has {text.vocab_size}.")
    if own.num_hidden_layers != 1 or own.hidden_act != "silu" or config.get("norm_before_fc"):
        raise ValueError("heads of one Llama layer with SiLU, and without a norm before fc, are computed here.")


def check_names(tensors: Mapping[str, torch.Tensor]) -> None:
    needed = {*(f"{name}.weight" for name in LINEARS), *NORMS}
    if missing := sorted(needed - tensors.keys()):
        raise ValueError(f"its weights lack {missing[0]}.")
    if unknown := sorted(tensors.keys() - needed - OPTIONAL):
        raise ValueError(f"its weights have a part that is not computed here, {unknown[0]}.")


def check_shape(tensors: Mapping[str, torch.Tensor], name: str, num_out: int, num_in: int) -> None:
    found = tuple(tensors[f"{name}.weight"].shape)
    if found != (num_out, num_in):
        raise ValueError(f"its {name}.weight has the shape {found}, and {(num_out, num_in)} is needed.")


def linear_of(tensors: Mapping[str, torch.Tensor], name: str) -> nn.Linear:
    weight, bias = tensors[f"{name}.weight"], tensors.get(f"{name}.bias")
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias, requires_grad=False)
    return linear


def offsets_of(tensors: Mapping[str, torch.Tensor], vocab_size: int) -> torch.Tensor | None:
    """What is added to the head's token ids to get the model's; None if they are the same. Raises ValueError."""
    offsets = tensors.get(TO_MODEL)
    num_tokens = len(tensors["lm_head.weight"])
    if offsets is None:
        if num_tokens != vocab_size:
            raise ValueError(f"it knows {num_tokens} of {vocab_size} tokens, and {TO_MODEL} does not tell which.")
        return None
    model_ids = offsets.long() + torch.arange(len(offsets), device=offsets.device)
    if len(offsets) != num_tokens or not 0 <= int(model_ids.min()) <= int(model_ids.max()) < vocab_size:
        raise ValueError(f"its {TO_MODEL} names tokens that the model does not have.")
    return offsets.long()
