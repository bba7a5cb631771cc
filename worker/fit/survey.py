"""How the layers of a model attend, found out without its numbers."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from worker.models.config_fields import largest
from worker.models.vision import is_vision_model
from worker.runners.latent.parts import any_parts_of
from worker.runners.latent.survey import survey_latents
from worker.runners.layer_survey import LayerSurvey
from worker.runners.parts.layers import GEMMA_NORMS, LAYER_PARTS
from worker.runners.parts.mlp import check_are_plain, check_parts
from worker.runners.probe import Unsupported, attending_part
from worker.state.kv_cache import LayerShape

NAME = "omni_fit"  # of the attention implementation


@dataclass(frozen=True)
class ModelShape:
    """Keys and values of a model's layers, and what can be run of it."""

    layers: list[LayerShape]
    has_products: bool  # of our own for its linear layers, which OMNI_QUANTIZE packs


class MetaSurvey(LayerSurvey):
    """A survey that sees no masks, for those on the meta device have no numbers."""

    def mask(self, **_: Any) -> None:  # type: ignore[override]
        """Called by transformers for the mask."""


def shape_of(model: Any) -> ModelShape:
    survey = survey_of(model)
    if survey is None:
        return ModelShape(widest(model), has_products=False)
    return ModelShape(survey.shapes, has_products=not is_vision_model(model.config) and is_decoder(model, survey))


@torch.inference_mode()
def survey_of(model: Any) -> LayerSurvey | None:
    """None if its forward pass depends on numbers, or no layer attends."""
    if not is_vision_model(model.config) and (latents := survey_latents(model, 2, model.dtype)) is not None:
        return latents
    ids = torch.zeros(1, 2, dtype=torch.long, device="meta")
    without_experts(model)
    for more in (
        {"attention_mask": ids + 1, "use_cache": False},
        {"use_cache": True},
    ):  # each spares some models a look
        survey = MetaSurvey(max_model_len=2)
        survey.num_layers = model.config.get_text_config().num_hidden_layers
        AttentionInterface.register(NAME, survey.attend)
        AttentionMaskInterface.register(NAME, survey.mask)
        attending_part(model).set_attn_implementation(NAME)
        try:
            model(input_ids=ids, **more)
        except Exception:  # models of any kind are tried here
            continue
        if survey.found:
            return survey
    return None


def widest(model: Any) -> list[LayerShape]:
    """As for a model that runs one sequence at a time: every layer keeps keys and values of full width."""
    text = model.config.get_text_config()
    all_heads = largest(text, "num_attention_heads") or 1
    heads = largest(text, "num_key_value_heads") or all_heads
    width = largest(text, "head_dim") or text.hidden_size // all_heads
    return [LayerShape(heads, width, width)] * int(text.num_hidden_layers)


def without_experts(model: Any) -> None:
    """Has experts compute nothing: which of them a token takes depends on numbers."""
    for module in model.modules():
        if type(module).__name__.endswith("Experts"):
            module.forward = lambda hidden_states, *_, **__: torch.empty_like(hidden_states)


def is_decoder(model: Any, survey: LayerSurvey) -> bool:
    """Whether a runner of ours computes its layers, as far as their parts tell."""
    try:
        survey.check_all_attend()
        check_parts(model, {"model", "lm_head"})
        for layer in model.model.layers:
            is_gemma = hasattr(layer, "pre_feedforward_layernorm")
            check_parts(layer, LAYER_PARTS | GEMMA_NORMS if is_gemma else LAYER_PARTS)
            for _, owner, names in any_parts_of(layer):
                check_are_plain(owner, {*names})
    except (Unsupported, AttributeError):
        return False
    return len({*survey.shapes}) == 1
