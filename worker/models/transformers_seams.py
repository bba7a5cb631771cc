"""The parts of transformers that its documentation does not promise to keep. Only this file of worker/ touches them.

Each docstring has the reason, and what to check when transformers is upgraded; tests/test_seams.py calls them all.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import DynamicCache, modeling_utils
from transformers.cache_utils import LinearAttentionCacheLayerMixin

LONGROPE = "longrope"
HELD = "held"  # a word that transformers does not know, so that it changes nothing


def attention_of(model: Any) -> str:
    """The name of the attention implementation that a model uses.

    Why: set_attn_implementation() is public, but nothing public returns the present one.
    On an upgrade: check that setting the returned name restores the model's own attention.
    """
    return str(model.config._attn_implementation)


def layer_configs(config: Any) -> list[Any]:
    """The configuration of each layer where layers differ, else the configuration itself.

    Why: a heterogeneous configuration raises for a field that differs between layers.
    On an upgrade: tests/worker/models/test_config_fields.py has such a family (Gemma 4).
    """
    return list(config.per_layer_config) if getattr(config, "is_heterogeneous", False) else [config]


def longrope_layers(rotary: Any) -> list[str | None]:
    """The types of layer for which a rotary module switches between two sets of frequencies; [None] if it has one type.

    Why: transformers chooses the set in every forward pass by its largest position (worker/models/rope.py).
    On an upgrade: compare with dynamic_rope_update() in modeling_rope_utils.py.
    """
    kind = getattr(rotary, "rope_type", None)
    if isinstance(kind, dict):
        return [layer_type for layer_type, own in kind.items() if own == LONGROPE]
    return [None] if kind == LONGROPE else []


def stop_switching(rotary: Any, layer_type: str | None) -> None:
    """Make a rotary module keep its present frequencies.

    Why: nothing public turns the switching off.
    On an upgrade: tests/worker/models/test_rope.py fails if the frequencies change again.
    """
    if layer_type is None:
        rotary.rope_type = HELD
    else:
        rotary.rope_type[layer_type] = HELD


def attend_with_softcap(model: Any) -> None:
    """Let a model whose attention squeezes its scores (Gemma 2) do so.

    Why: transformers 5.17 chooses torch's attention for it, which ignores the softcap; 5.24 no longer chooses it.
    On an upgrade: remove it once 5.24 is the oldest that we run on.
    """
    softcap = getattr(model.config.get_text_config(), "attn_logit_softcapping", None)
    if softcap is not None and attention_of(model) == "sdpa":
        model.set_attn_implementation("eager")


@contextmanager
def without_reservation() -> Iterator[None]:
    """While active, from_pretrained() does not first reserve a GPU's memory for all weights, unpacked.

    Why: a model that fits a card only because it is packed would run out of memory there.
    On an upgrade: tests/test_seams.py fails if the function has another name; then look for what reserves.
    """
    reserve = modeling_utils.caching_allocator_warmup
    modeling_utils.caching_allocator_warmup = lambda *_, **__: None
    try:
        yield
    finally:
        modeling_utils.caching_allocator_warmup = reserve


def shifts_positions(model: Any) -> bool:
    """True for a family whose images take more or fewer positions than tokens.

    Why: such models keep the shift of the last prompt on themselves, and we serve many prompts at once.
    On an upgrade: look for the attribute in the families of tests/vision_models.py.
    """
    return hasattr(getattr(model, "model", None), "rope_deltas")


def position_shift(model: Any) -> Any:
    """The shift of the prompt that the model read last: a tensor of one number, or None. See shifts_positions()."""
    return model.model.rope_deltas


def set_position_shift(model: Any, shift: Any) -> None:
    """Make the model continue a prompt with this shift; None before it reads a prompt. See shifts_positions()."""
    model.model.rope_deltas = shift


def cache_parameter(model: Any) -> str:
    """The parameter of a model's forward pass that takes a cache.

    Why: families name it differently, and transformers 5.24 renamed past_key_values.
    On an upgrade: look for yet another name; tests/worker/runners/test_hybrid.py fails without it.
    """
    parameters = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "cache_params") if name in parameters), "past_key_values")


def state_layers(cache: DynamicCache) -> list[Any]:
    """The layers of a cache that keep a state of fixed size instead of keys and values.

    Why: the states of sequences that decode together are stacked, and nothing public stacks them.
    On an upgrade: tests/worker/runners/test_hybrid.py compares every hybrid family with generate().
    """
    return [layer for layer in cache.layers if isinstance(layer, LinearAttentionCacheLayerMixin)]


def layer_states(layer: Any) -> Iterator[dict[int, torch.Tensor]]:
    """A layer's convolution states and its recurrent states, by number, each [sequences, ...]. See state_layers()."""
    for states in (layer.conv_states, layer.recurrent_states):
        yield {number: state for number, state in states.items() if state is not None}


def set_layer_states(
    layer: Any, like: Any, convolution: dict[int, torch.Tensor], recurrent: dict[int, torch.Tensor]
) -> None:
    """Put states into a new layer and copy all its other attributes from the layer `like`. See state_layers()."""
    layer.conv_states |= convolution
    layer.recurrent_states |= recurrent
    for name in ("is_conv_states_initialized", "is_recurrent_states_initialized", "has_previous_state"):
        setattr(layer, name, dict(getattr(like, name)))
    layer.conv_kernel_size = dict(like.conv_kernel_size)
    layer.device, layer.dtype = like.device, like.dtype
