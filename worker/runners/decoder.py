"""Runs Llama-like models without transformers' modules: the same weights, a fraction of the operators.

Llama, Mistral, Mixtral, Qwen2, Qwen3, GLM 4.5, gpt-oss, Phi 3, Gemma and similar families differ only in the parts that
parts/ looks up. A model that has the same parts but computes something else fails the probe, which compares logits
before anything is served.
"""

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Seq
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from worker.attention.paged import Attention, PagedAttention
from worker.attention.spec import AttentionSpec
from worker.kernels.adapters.linear import AdaptedLinear, without_adapters
from worker.kernels.elementwise import gated, rotate
from worker.kernels.experts.layer import Experts, has_experts
from worker.kernels.experts.swap import drop_matrices, use_experts
from worker.kernels.fused import PackedBefore, fused_linear
from worker.kernels.linear import drop_weights
from worker.kernels.proxies import proxies
from worker.kernels.quantized import Quantization
from worker.models.features import FeatureTap
from worker.runners.base import AttentionMaker, ModelRunner
from worker.runners.parts.adapters import Place, RunnerAdapters
from worker.runners.parts.layers import Layer, Norm, layer_of, parts_of, product_at, with_product
from worker.runners.parts.mlp import Product, SparseMlp, check_are_plain, check_parts
from worker.runners.parts.rotation import Rotary, Rotation
from worker.runners.probe import Unsupported
from worker.state.kv_cache import KVCache


class DecoderRunner(ModelRunner):
    """Runs the layers over flat tokens, [T, hidden]."""

    takes_other_shapes = False  # of some layers' keys and values

    def __init__(
        self,
        model: Any,
        kv_cache: KVCache,
        specs: Seq[AttentionSpec],
        attend_with: AttentionMaker = PagedAttention,
        quantization: Quantization | PackedBefore | None = None,
    ) -> None:
        """`specs`: how each layer attends. Raises Unsupported for a model with other parts than those known here."""
        super().__init__(model, kv_cache, attend_with)
        check_parts(model, {"model", "lm_head"})
        body = model.model
        check_parts(body, {"embed_tokens", "layers", "norm", "rotary_emb"})
        check_are_plain(model, {"lm_head"})
        self.shape = kv_cache.shapes[0]
        if not self.takes_other_shapes and any(shape != self.shape for shape in kv_cache.shapes):
            raise Unsupported("its layers differ in shape")
        config = model.config.get_text_config()
        self.embedding = body.embed_tokens.weight.detach()
        self.embedding_scale = getattr(body.embed_tokens, "embed_scale", None)  # a tensor, in Gemma
        self.softcap = getattr(config, "final_logit_softcapping", None)
        self.rotary = Rotary(body.rotary_emb, getattr(config, "layer_types", None))
        self.layers = self._layers_of(body.layers, specs, quantization)
        self.rotary_kinds = list(dict.fromkeys(layer.rotary_kind for layer in self.layers))
        self.num_rotated = self._count_rotated()  # numbers of each head, the first ones
        self.num_heads = self._count_heads(body.layers[0].self_attn)
        self.norm = Norm(body.norm)
        self.head = fused_linear([model.lm_head], quantization and quantization.for_head())

    def _layers_of(
        self, modules: Seq[Any], specs: Seq[AttentionSpec], quantization: Quantization | PackedBefore | None
    ) -> list[Layer]:
        """Raises Unsupported for a layer with other parts than those known here."""
        kinds = map(self.rotary.kind_of, range(len(modules)))
        layers = [layer_of(*each, quantization) for each in zip(modules, specs, kinds, strict=True)]
        if any(norm.shape != (self.shape.key_dim,) for layer in layers for norm in layer.head_norms or ()):
            raise Unsupported("its queries and keys are not normed by heads")
        return layers

    def _count_heads(self, attention: Any) -> int:
        """The heads of queries. Raises Unsupported for heads that are not computed here."""
        if self.shape.key_dim != self.shape.value_dim:
            raise Unsupported("its keys and values differ in width")
        return int(attention.o_proj.in_features) // self.shape.value_dim

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """See ModelRunner."""
        return self._embedded(token_ids)

    def project(self, normed: torch.Tensor) -> torch.Tensor:
        """See ModelRunner."""
        return self.head(normed)

    @property
    def products(self) -> list[Any]:
        """The products of linear layers and experts, in the order in which they are made."""
        found: list[Any] = []
        for layer in self.layers:
            found += (layer.qkv, layer.attention_out, *layer.mlp.products)
        return [*map(without_adapters, found), self.head]

    @property
    def linears(self) -> list[Any]:
        """See ModelRunner."""
        return [*self.products, *(layer.mlp.router.logits for layer in self.layers if isinstance(layer.mlp, SparseMlp))]

    def release_weights(self) -> None:
        """Free the model's own copies of packed weights. The model itself can no longer run."""
        modules = list(self.model.model.layers.modules())
        drop_weights([*(module for module in modules if isinstance(module, nn.Linear)), self.model.lm_head])
        for module in filter(has_experts, modules):
            drop_matrices(module)

    def share_weights(self) -> None:
        """As release_weights(), for a model that still has to run: its layers compute with the packed weights."""
        experts: dict[Any, Experts] = {}
        for module, layer in zip(self.model.model.layers, self.layers, strict=True):
            replace_linears(self._parts_of(module), layer)
            if isinstance(layer.mlp, SparseMlp):
                experts[module.mlp.experts] = layer.mlp.experts
        if experts:
            use_experts(self.model, experts).pack()
        self.model.set_output_embeddings(*proxies(self.head, [self.model.lm_head]))

    def wrap(self, adapters: RunnerAdapters, names: Mapping[nn.Module, str]) -> dict[str, Place]:
        """Compute with adapters from now on; returns the places of the linear layers. `names`: of the modules."""
        places: dict[str, Place] = {}
        for at, module in enumerate(self.model.model.layers):
            for path, owner, parts in self._parts_of(module):
                change, own = adapters.change_of([f"{names[owner]}.{part}" for part in parts])
                product = AdaptedLinear(product_at(self.layers[at], path), change, adapters.current)
                self.layers[at] = with_product(self.layers[at], path, product)
                places |= own
        return places

    def _parts_of(self, module: Any) -> Iterable[Product]:
        """The products of linear layers in a layer, as _layers_of() makes it of this module."""
        return parts_of(module)

    def _run(
        self, inputs: torch.Tensor, positions: torch.Tensor, paged: Attention, selected: torch.Tensor
    ) -> torch.Tensor:
        return self.run_layers(self._embedded(inputs), positions, paged, selected)

    def run_layers(
        self, hidden: torch.Tensor, positions: torch.Tensor, paged: Attention, selected: torch.Tensor
    ) -> torch.Tensor:
        """Everything after the embedding: hidden states [T, width], which may be overwritten -> logits [S, vocab]."""
        rotations = {kind: self._rotation(hidden, positions, kind) for kind in self.rotary_kinds}
        next_norms = [*(layer.attention_norm for layer in self.layers[1:]), self.norm]
        normed = self._normed(hidden, self.layers[0].attention_norm)
        tap = FeatureTap(self.feature_layers, len(self.layers))
        for layer_idx, (layer, next_norm) in enumerate(zip(self.layers, next_norms, strict=True)):
            tap.take(layer_idx, hidden)
            attended = self._attend(layer_idx, layer, normed, rotations[layer.rotary_kind], paged)
            if next_norm is self.norm and not tap.needs_all_tokens:  # the rest is computed only for wanted logits
                hidden, attended = self._select(selected, hidden, attended)
            change = layer.attention_out(attended)
            hidden, normed = self._add_norm(hidden, change, layer.attention_out_norm, layer.mlp_norm)
            change = layer.mlp(normed, self._gated)
            hidden, normed = self._add_norm(hidden, change, layer.mlp_out_norm, next_norm)
        return self._logits(tap, hidden, normed, selected)

    def _select(
        self, selected: torch.Tensor, hidden: torch.Tensor, attended: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The rest of the pass computes these tokens only."""
        if self.adapters is not None:
            self.adapters.current.narrow(selected)
        return hidden[selected], attended[selected]

    def _logits(
        self, tap: FeatureTap, hidden: torch.Tensor, normed: torch.Tensor, selected: torch.Tensor | None
    ) -> torch.Tensor:
        """The pass's end: `hidden` and `normed` of all tokens where the tap needs them, else of the selected ones."""
        if tap.needs_all_tokens:
            assert selected is not None
            tap.take(len(self.layers), hidden)
            tap.take(len(self.layers) + 1, normed)
            normed = normed[selected]
        self.kept = tap.features
        logits = self.head(normed)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def _embedded(self, inputs: torch.Tensor) -> torch.Tensor:
        hidden = F.embedding(inputs, self.embedding)
        return hidden if self.embedding_scale is None else hidden * self.embedding_scale.to(hidden.dtype)

    def _normed(self, hidden: torch.Tensor, norm: Norm) -> torch.Tensor:
        if norm.weight.dtype != hidden.dtype:
            return torch.rms_norm(hidden.float(), norm.shape, norm.weight, norm.eps).to(hidden.dtype)
        return torch.rms_norm(hidden, norm.shape, norm.weight, norm.eps)

    def _add_norm(
        self, hidden: torch.Tensor, change: torch.Tensor, change_norm: Norm | None, norm: Norm
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The residual stream plus `change`, which is normed itself in some families; and the sum's norm."""
        hidden = hidden + (change if change_norm is None else self._normed(change, change_norm))
        return hidden, self._normed(hidden, norm)

    def _gated(self, gate_up: torch.Tensor, activation: str) -> torch.Tensor:
        """[T, 2 * width] -> [T, width]."""
        return gated(gate_up, activation)

    def _attend(
        self, layer_idx: int, layer: Layer, normed: torch.Tensor, rotation: Rotation, paged: Attention
    ) -> torch.Tensor:
        """The attention of one layer, [T, heads * dim]; its keys and values are written to the cache."""
        num_tokens, dim, heads, kv_heads = len(normed), self.shape.key_dim, self.num_heads, self.shape.num_kv_heads
        qkv = norm_rows(layer.qkv(normed), layer, self._normed)
        rotated = qkv[:, : (heads + kv_heads) * dim].view(num_tokens, heads + kv_heads, dim)
        if layer.head_norms is not None:
            query_norm, key_norm = layer.head_norms
            rotated[:, :heads] = self._normed(rotated[:, :heads], query_norm)
            rotated[:, heads:] = self._normed(rotated[:, heads:], key_norm)
        rotate(rotated[..., : self.num_rotated], *rotation)
        value = qkv[:, (heads + kv_heads) * dim :].view(num_tokens, kv_heads, dim)
        paged.write(layer_idx, rotated[:, heads:], value)
        return paged.attend(layer_idx, rotated[:, :heads], layer.spec).flatten(1)

    def _rotation(self, hidden: torch.Tensor, positions: torch.Tensor, kind: str | None) -> Rotation:
        """cos, and sin with the signs of rotate_half, [T, 1, dim]."""
        return signed(*self.rotary(hidden, positions, kind))

    def _count_rotated(self) -> int:
        """Raises Unsupported where layers differ."""
        hidden = torch.zeros(1, device=self.embedding.device)
        widths = {self.rotary(hidden, hidden.long(), kind)[0].shape[1] for kind in self.rotary_kinds}
        (width,) = widths if len(widths) == 1 else (0,)
        if not 0 < width <= self.shape.key_dim or width % 2:
            raise Unsupported(f"it rotates {sorted(widths)} of the {self.shape.key_dim} numbers of a head")
        return width


def signed(cos: torch.Tensor, sin: torch.Tensor) -> Rotation:
    """[T, dim] each -> cos, and sin with the signs of rotate_half, [T, 1, dim]."""
    half = sin.shape[-1] // 2
    return cos[:, None], torch.cat([-sin[:, :half], sin[:, half:]], dim=-1)[:, None]


def norm_rows(qkv: torch.Tensor, layer: Layer, normed: Callable[[torch.Tensor, Norm], torch.Tensor]) -> torch.Tensor:
    """Queries, keys and values of each token, of which all queries and all keys are normed where the layer says so."""
    start = 0
    for norm in layer.row_norms or ():
        part = qkv[:, start : start + norm.shape[0]]
        part.copy_(normed(part, norm))
        start += norm.shape[0]
    return qkv


def replace_linears(parts: Iterable[Product], layer: Layer) -> None:
    """Let the layer's products compute what these linear layers of modules did."""
    for path, owner, names in parts:
        replaced = [getattr(owner, name) for name in names]
        for name, part in zip(names, proxies(product_at(layer, path), replaced), strict=True):
            setattr(owner, name, part)
