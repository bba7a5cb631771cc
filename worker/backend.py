"""Chooses how a loaded model is run, and how much of it at once."""

import logging
from typing import Any

import torch

from worker.decoder import DecoderRunner
from worker.kv_cache import KVCache, LayerShape
from worker.limits import Limits, choose_limits
from worker.loader import EngineConfig, LoadedModel
from worker.model_runner import ModelRunner, Runner
from worker.probe import Unsupported, check_equal, find_shapes, stock_logits, use_paged_attention
from worker.sequential_runner import Mode, SequentialRunner

logger = logging.getLogger(__name__)


def build_runner(loaded: LoadedModel, config: EngineConfig) -> tuple[Runner, Limits]:
    """The fast path if the model proves to be the same on it, otherwise one sequence at a time."""
    model = loaded.model
    stock_attention = model.config._attn_implementation
    expected = stock_logits(model)
    try:
        use_paged_attention(model)
        shapes = find_shapes(model)
        limits = choose_limits(loaded, config, shapes)
        kv_cache = KVCache(shapes, limits.num_blocks, limits.block_size, loaded.dtype, loaded.device)
        return fast_runner(model, kv_cache, expected, config.quantize), limits
    except Unsupported as reason:
        logger.warning("%s runs one sequence at a time: %s", loaded.card.architecture, reason)
    model.set_attn_implementation(stock_attention)
    return sequential_runner(loaded, config, expected)


def fast_runner(model: Any, kv_cache: KVCache, expected: torch.Tensor, quantize: str | None) -> Runner:
    """Our own layers where we know the model's parts, else the model's. Raises Unsupported if neither is equal."""
    try:
        decoder = DecoderRunner(model, kv_cache)
        check_equal(decoder, model, expected)
        if quantize is not None:
            decoder = DecoderRunner(model, kv_cache, quantize)
        decoder.release_weights()
        return decoder
    except Unsupported as reason:
        if quantize is not None:
            logger.warning("%s weights stay as they are: %s", quantize, reason)
        logger.info("the model's own layers are used: %s", reason)
    runner = ModelRunner(model, kv_cache)
    check_equal(runner, model, expected)
    return runner


def sequential_runner(loaded: LoadedModel, config: EngineConfig, expected: torch.Tensor) -> tuple[Runner, Limits]:
    """Blocks are counted as if every layer kept keys and values of full width, the most that any cache here takes."""
    text = loaded.model.config.get_text_config()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    shapes = [LayerShape(heads, head_dim, head_dim)] * text.num_hidden_layers
    limits = choose_limits(loaded, config, shapes)
    counter = KVCache([], limits.num_blocks, limits.block_size, torch.float32, loaded.device, shares_prefixes=False)
    for mode in Mode:
        runner = SequentialRunner(loaded.model, counter, mode)
        try:
            check_equal(runner, loaded.model, expected)
        except Unsupported as reason:
            logger.info("not with %s: %s", mode.value, reason)
        else:
            logger.warning("one sequence at a time, %s", mode.value)
            return runner, limits
    raise ValueError(f"{loaded.card.architecture} gives other logits each time it is run.")
