"""Chooses how a loaded model is run: the fastest way whose logits are those of the stock model."""

import logging
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch

from worker.kernels.experts.swap import ExpertsSwap, swap_experts, swap_proven_experts
from worker.kernels.linear import can_pack, tune_products
from worker.kernels.proxies import LinearSwap, swap_linears
from worker.kernels.quantized import Quantization
from worker.models.dtypes import SMALL_MODEL_PARAMETERS, count_parameters
from worker.models.formats.reader import has_packed
from worker.models.loader import FP8_KV, EngineConfig, LoadedModel, check_kv_dtype
from worker.models.transformers_seams import attention_of
from worker.runners.base import AttentionMaker, ModelRunner, Runner
from worker.runners.candidates import attention_makers, candidates, new_recordings, warn_without_triton
from worker.runners.decoder import DecoderRunner
from worker.runners.hybrid import HybridRunner, keeps_states
from worker.runners.image_prompts import ImagePromptRunner, LanguagePart, runner_with_images
from worker.runners.kept.runner import keep_runner, restored_runner
from worker.runners.latent.survey import survey_latents
from worker.runners.layer_survey import LayerSurvey, cache_to_serve, cache_to_try, survey_layers
from worker.runners.limits import Limits, choose_limits
from worker.runners.micro_batches import MicroBatches
from worker.runners.native_decoder import NativeDecoderRunner
from worker.runners.parts.adapters import Place, RunnerAdapters, Shapes
from worker.runners.parts.hosted import fill_card, hosted_experts
from worker.runners.parts.mlp import encode_for
from worker.runners.probe import (
    MAX_FP8_CACHE_DEVIATION,
    Expected,
    Unsupported,
    attending_part,
    check_equal,
    image_probe,
    probe_length,
    probe_logits,
    stock_logits,
    use_paged_attention,
)
from worker.runners.sequential import sequential_runner
from worker.runners.tensor_parallel import leading_runner
from worker.state.kv_cache import KVCache

logger = logging.getLogger(__name__)


def build_runner(loaded: LoadedModel, config: EngineConfig, draft_token_bytes: int = 0) -> tuple[Runner, Limits]:
    """A runner for many sequences in a step if its logits agree with the stock model's, else one at a time.

    `draft_token_bytes`: of a token in a draft model's KV cache, which gets as many blocks.
    """
    check_kv_dtype(config, loaded.device)  # as load() does; a model may have come another way
    warn_without_triton(loaded.device)
    if config.num_ranks > 1:
        return leading_runner(loaded, config)
    if loaded.kept is not None and loaded.kept.found is not None:
        restored, layers, num_parameters = restored_runner(loaded)
        return with_room(restored, restored, loaded, config, layers, num_parameters, draft_token_bytes)
    model = loaded.model
    num_parameters, hosted = count_parameters(model), hosted_experts(loaded, config)
    stock_attention = attention_of(attending_part(model))
    if loaded.device.type == "cpu":
        swap_proven_experts(attending_part(model), partial(encode_for, config.quantization))
    expected = stock_logits(model, is_slow=hosted is not None)
    try:
        probe = image_probe(model, loaded.images) if loaded.images is not None else None
        inner, layers = surveyed_runner(loaded, config, expected)
        inner.hosted = hosted
        if config.kv_dtype == FP8_KV:
            prove_fp8_cache(inner, loaded, layers)
        runner: Runner = inner
        if probe is not None:
            runner = runner_with_images(loaded, inner, layers, probe, stock_attention, expected.most)
    except Unsupported as reason:
        logger.warning("%s runs one sequence at a time: %s", loaded.card.architecture, reason)
    else:
        is_exact = loaded.dtype == torch.float32 and (
            config.dtype == "float32" or num_parameters < SMALL_MODEL_PARAMETERS
        )
        tune_products(inner.linears, loaded.device, config.products_table, is_exact=is_exact)
        if loaded.kept is not None and loaded.images is None:
            runner = inner = keep_runner(loaded, inner, layers, num_parameters)
        return with_room(runner, inner, loaded, config, layers, num_parameters, draft_token_bytes, expected.most)
    warn_unquantized(config.quantization, "it runs one sequence at a time")
    if config.kv_dtype == FP8_KV:
        logger.warning("OMNI_KV_DTYPE=fp8 has no effect: it runs one sequence at a time, with a cache of transformers")
        config = replace(config, kv_dtype="auto")
    attending_part(model).set_attn_implementation(stock_attention)
    return sequential_runner(loaded, config, expected, num_parameters)


def with_room(
    runner: Runner,
    inner: ModelRunner,
    loaded: LoadedModel,
    config: EngineConfig,
    layers: LayerSurvey,
    num_parameters: int,
    draft_token_bytes: int,
    most: float = 0.0,
) -> tuple[Runner, Limits]:
    """The runner with its KV cache and recorded steps. `inner`: the same, or the one that it wraps."""
    if loaded.arena is not None:
        loaded.arena.adopt((runner, loaded.model), KVCache)
    state_bytes = inner.state_bytes if isinstance(inner, HybridRunner) else 0
    fill_card(inner.hosted, loaded, config, layers.shapes, num_parameters)  # now that the other weights are in place
    limits = choose_limits(loaded, config, layers.shapes, num_parameters, state_bytes, draft_token_bytes)
    if state_bytes:
        logger.info("%d MB of states a sequence: %d run together", state_bytes // 10**6, limits.max_num_seqs)
    layout = type(inner).__name__
    runner.kv_cache = cache_to_serve(loaded, layers, limits, config, layout, shares_prefixes=not state_bytes)
    inner.recordings = new_recordings(inner, config, limits.max_step_tokens, most)
    return runner, limits


def adapters_of_runner(loaded: LoadedModel, runner: Runner, shapes: Shapes) -> RunnerAdapters:
    """A place for adapters of the linear layers `shapes`, beside the runner's own products and the model's modules."""
    inner = runner.inner if isinstance(runner, ImagePromptRunner) else runner
    names = {module: name for name, module in loaded.model.named_modules()}
    wrap = partial(inner.wrap, names=names) if isinstance(inner, DecoderRunner) else no_own_products
    return RunnerAdapters(loaded.model, shapes, loaded.dtype, loaded.device, wrap, runs_modules=inner is not runner)


def no_own_products(adapters: RunnerAdapters) -> dict[str, Place]:
    """For a runner of transformers' modules."""
    return {}


def prove_fp8_cache(runner: ModelRunner, loaded: LoadedModel, layers: LayerSurvey) -> None:
    """Raises ValueError if keys and values in fp8 change too much of the logits of a runner that is right without."""
    own = runner.kv_cache
    expected = Expected(probe_logits(runner, loaded.model)[0], MAX_FP8_CACHE_DEVIATION)
    runner.kv_cache = cache_to_try(loaded, layers, probe_length(loaded.model), torch.float8_e4m3fn)
    try:
        deviation = check_equal(runner, loaded.model, expected)
    except Unsupported as reason:
        what = f"OMNI_KV_DTYPE=fp8 does not fit {loaded.card.architecture}"
        raise ValueError(f"{what}: {reason}; set it to auto.") from reason
    finally:
        runner.kv_cache = own
    logger.info("with an fp8 KV cache the logits differ by %.2g of their spread", deviation)


def surveyed_runner(loaded: LoadedModel, config: EngineConfig, expected: Expected) -> tuple[ModelRunner, LayerSurvey]:
    """Over latents where the model attends over such, else over keys and values. Raises Unsupported."""
    model, max_model_len = loaded.model, loaded.card.max_model_len
    latents = survey_latents(model, max_model_len, loaded.dtype) if loaded.images is None else None
    if latents is not None and config.kv_dtype == FP8_KV:
        raise ValueError(
            f"OMNI_KV_DTYPE=fp8 does not fit {loaded.card.architecture}, which keeps a latent of each token in "
            "the place of keys and values, small as it is; set it to auto."
        )
    if latents is not None:
        try:
            return fast_runner(loaded, latents, expected, config.quantization), latents
        except Unsupported as reason:
            logger.warning("%s keeps keys and values, not latents: %s", loaded.card.architecture, reason)
    layers = survey_layers(model, max_model_len)
    use_paged_attention(model)
    return ragged_runner(loaded, config, layers, expected), layers


def ragged_runner(loaded: LoadedModel, config: EngineConfig, layers: LayerSurvey, expected: Expected) -> ModelRunner:
    """The fastest runner for many sequences in a step with the expected logits. Raises Unsupported."""
    if layers.found and keeps_states(loaded.model):
        warn_unquantized(config.quantization, "its layers keep states")
        return hybrid_runner(loaded, layers, expected)
    layers.check_all_attend()
    runner = fast_runner(loaded, layers, expected, config.quantization)
    if isinstance(runner, NativeDecoderRunner) and loaded.num_passes > 1:
        runner.micro_batches = MicroBatches(loaded.num_passes)
    return runner


def hybrid_runner(loaded: LoadedModel, layers: LayerSurvey, expected: Expected) -> HybridRunner:
    """For a model whose layers keep states besides keys and values. Raises Unsupported."""
    probe_cache = cache_to_try(loaded, layers, probe_length(loaded.model))
    refusals = []
    for reads_whole, maker in product((False, True), attention_makers(loaded.device)):
        try:
            runner = HybridRunner(loaded.model, probe_cache, layers.places, maker, reads_whole=reads_whole)
            check_equal(runner, loaded.model, expected)
        except Unsupported as reason:
            refusals.append(f"its layers keep states, and {reason}")
            logger.info("not by %s with %s: %s", HybridRunner.__name__, maker.__qualname__, reason)
        else:
            pack_weights(runner, loaded.model, expected)
            return runner
    raise Unsupported(refusals[-1])


def pack_weights(runner: ModelRunner, model: Any, expected: Expected) -> None:
    """Pack the linear layers and experts of a model that runs by itself, unless it accesses their weights directly.

    On a CPU; on a GPU, and of experts, only those whose weights a checkpoint brought packed.
    """
    part = attending_part(model)
    is_plain = model.device.type != "cpu" or not can_pack(model.dtype)
    if is_plain and not has_packed(model):
        return
    swaps: list[LinearSwap | ExpertsSwap] = [*swap_linears(part, packed_only=is_plain), *swap_experts(part)]
    try:
        check_equal(runner, model, expected)
    except Unsupported as reason:
        logger.info("its weights are not packed: %s", reason)
        for swap in swaps:
            swap.undo()
    else:
        for swap in swaps:
            swap.pack()


def warn_unquantized(quantization: Quantization | None, why: str) -> None:
    """Log that OMNI_QUANTIZE, if set, has no effect for this model."""
    if quantization is not None:
        logger.warning("OMNI_QUANTIZE=%s has no effect: %s", quantization.name, why)


def fast_runner(
    loaded: LoadedModel, layers: LayerSurvey, expected: Expected, quantization: Quantization | None
) -> ModelRunner:
    """The fastest runner with the expected logits, on a KV cache just large enough to try it. Raises Unsupported."""
    model = loaded.model
    probe_cache = cache_to_try(loaded, layers, probe_length(loaded.model))
    if loaded.images is not None:
        warn_unquantized(quantization, "the model reads images with the same weights")
        quantization = None
    refusals = []
    for runner_type, maker in candidates(loaded.device, over_latents=layers.is_of_latents):
        try:
            runner = proven_runner(runner_type, model, probe_cache, maker, layers, expected)
        except Unsupported as reason:
            refusals.append(f"not by {runner_type.__name__} with {maker.__qualname__}: {reason}")
            continue
        is_slower = loaded.device.type == "cuda" and refusals  # an operator should know
        for refusal in refusals:
            logger.log(logging.WARNING if is_slower else logging.INFO, "%s", refusal)
        if runner_type is ModelRunner:
            warn_unquantized(quantization, refusals[-1])
        elif quantization is not None:
            del runner  # it holds the weights that are to be freed
            runner = new_runner(runner_type, model, probe_cache, maker, layers, quantization)
        if loaded.images is None:
            runner.release_weights()
        else:
            runner.share_weights()
        if runner_type is ModelRunner:
            pack_weights(runner, model, expected)
        return runner
    raise Unsupported(refusals[-1])


def proven_runner(
    runner_type: type[ModelRunner],
    model: Any,
    kv_cache: KVCache,
    maker: AttentionMaker,
    layers: LayerSurvey,
    expected: Expected,
) -> ModelRunner:
    """Raises Unsupported unless the runner computes the expected logits."""
    try:
        runner = new_runner(runner_type, model, kv_cache, maker, layers, None)
    except Unsupported:
        raise
    except Exception as error:  # models of any kind are tried here
        raise Unsupported(f"it cannot be set up for the model ({type(error).__name__}: {error})") from error
    deviation = check_equal(runner, model, expected)
    name = f"{runner_type.__name__} with {maker.__qualname__}"
    logger.info("%s differs by %.2g of the logits' spread; %.2g is rounding", name, deviation, expected.most)
    return runner


def new_runner(
    runner_type: type[ModelRunner],
    model: Any,
    kv_cache: KVCache,
    maker: AttentionMaker,
    layers: LayerSurvey,
    quantization: Quantization | None,
) -> ModelRunner:
    """Raises Unsupported."""
    if issubclass(runner_type, DecoderRunner):
        part = model if attending_part(model) is model else LanguagePart(model)
        return runner_type(part, kv_cache, layers.specs, maker, quantization)
    return runner_type(model, kv_cache, maker)
