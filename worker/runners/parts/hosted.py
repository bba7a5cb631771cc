"""A model whose experts stand in host memory beside a GPU: how they are computed, and how many are on the GPU too."""

import logging
from functools import partial

from worker.kernels.experts.placing import HostedExperts
from worker.kernels.experts.ram import use_ram_experts
from worker.kernels.experts.swap import product_of
from worker.models.config_fields import experts_per_token
from worker.models.loader import EngineConfig, LoadedModel
from worker.runners.limits import kv_dtype, kv_memory_bytes, step_size
from worker.runners.parts.mlp import encode_for
from worker.runners.probe import attending_part
from worker.state.kv_cache import LayerShape

logger = logging.getLogger(__name__)

DEVICES = ("cuda",)  # beside which experts may stand in host memory
CARD_SHARE = 0.5  # of the memory that is left, for experts where keys and values could use all of it


def hosted_experts(loaded: LoadedModel, config: EngineConfig) -> HostedExperts | None:
    """Have the model's experts in host memory computed there; None if there are none. Raises ValueError."""
    if loaded.device.type not in DEVICES:
        return None
    encode = partial(encode_for, config.quantization)
    layers = use_ram_experts(attending_part(loaded.model), loaded.device, config.threads, encode)
    if not layers:
        if config.experts == "ram" and not any(map(product_of, loaded.model.modules())):
            logger.warning("OMNI_EXPERTS=ram has no effect: the model has no routed experts")
        return None
    hosted = HostedExperts(layers, loaded.device)
    hosted.choose_streaming(experts_per_token(loaded.model.config), loaded.dtype)
    num_bytes = sum(layer.experts.num_bytes for layer in layers)
    copied = "never" if hosted.min_streamed is None else f"for {hosted.min_streamed} tokens or more"
    logger.info("%.1f GiB of experts are in host memory; they go to the GPU %s", num_bytes / 2**30, copied)
    return hosted


def fill_card(
    hosted: HostedExperts | None,
    loaded: LoadedModel,
    config: EngineConfig,
    shapes: list[LayerShape],
    num_parameters: int,
) -> None:
    """Put experts on the GPU, in memory that keys and values leave: half of what both could use."""
    if hosted is None or config.experts != "auto":
        return
    left = kv_memory_bytes(loaded, config, num_parameters)
    per_token = sum(shape.token_bytes(kv_dtype(loaded, config)) for shape in shapes)
    max_num_seqs, _ = step_size(loaded, config, num_parameters)
    useful = config.kv_memory_bytes or max_num_seqs * loaded.card.max_model_len * per_token
    hosted.fill_card(max(left - useful, int(left * CARD_SHARE)))
