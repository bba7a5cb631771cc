"""Compares the logits of a runner with those of the stock model, before anything is served.

Models that differ (indexers, pure state-space models, position schemes that need a whole prompt at once) run one
sequence at a time with transformers' own cache.
"""

import base64
import io
import logging
from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from common.wire import GenerationRequest, SamplingParams
from worker.attention.paged import ATTENTION_NAME, register_attention
from worker.device import check_device
from worker.kernels.packed.input_rounding import inputs_rounded, layers_that_round
from worker.models.config_fields import largest
from worker.models.transformers_seams import set_position_shift, shifts_positions
from worker.models.vision import ImageProcessor
from worker.runners.base import Runner
from worker.state.kv_cache import KVCache
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence
from worker.state.stopping import VisibleText

logger = logging.getLogger(__name__)

PROBE_LENGTH = 12  # tokens
PROBE_CHUNKS = (5, 6, 1)  # tokens of each pass: two chunks of a prompt, then a decode step
GPU_PROBE_LENGTH = 300  # reaches further pages, and keys that are shared among programs (MIN_KEYS of split_keys.py)
GPU_PROBE_CHUNKS = (70, 229, 1)
PROBE_SEQS = 2  # in one batch: a kernel may be right for the first sequence only
# of the logits: root mean square of the difference / standard deviation
MAX_DEVIATION = MappingProxyType({torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2})
ROUNDINGS = 3.0  # times what roundings of the model's own outputs change, a runner may differ
MOST_EXPLAINED = 0.3  # a difference beyond it is never taken for rounding
# passes that roundings are measured with; a GPU takes little time, and a mixture's choice of experts flips in some only
NUM_ROUNDED = MappingProxyType({"cpu": 3, "cuda": 8})
FEW_ROUNDED = 2  # where experts in host memory make passes slow
MAX_FP8_CACHE_DEVIATION = 0.25  # the same with keys and values in fp8, whose rounding errors are 2 to 3 %
PICTURE_SIDE = 64  # pixels
TOKENS_BEFORE_PICTURE = 4


class Unsupported(Exception):
    """The model cannot run this way; the message says why."""


def attending_part(model: Any) -> Any:
    """The part that attends over our cache: all of a text model, the language model of a vision model."""
    return model.get_decoder() if hasattr(model.config, "vision_config") else model


def use_paged_attention(model: Any) -> None:
    """Replace the model's attention: from now on its forward pass needs the argument `paged`."""
    register_attention()
    attending_part(model).set_attn_implementation(ATTENTION_NAME)


@dataclass(frozen=True, slots=True)
class Expected:
    """Logits [vocab] after the probe tokens, and the deviation from them that rounding explains."""

    logits: torch.Tensor
    most: float


@torch.inference_mode()
def stock_logits(model: Any, *, is_slow: bool = False) -> Expected:
    """Computed by the stock model, before its attention is replaced. Raises ValueError if they are not finite.

    `is_slow`: its passes take seconds, so there are few.
    """
    tokens = probe_tokens(model)[None]
    logits = model(input_ids=tokens, use_cache=False).logits[0, -1].float()
    if not logits.isfinite().all():
        raise ValueError(not_finite(model, logits))
    return Expected(logits, explained_by_rounding(model, tokens, logits, FEW_ROUNDED if is_slow else None))


def not_finite(model: Any, logits: torch.Tensor) -> str:
    kind = "NaN" if logits.isnan().any() else "infinite"
    if model.dtype == torch.float32:
        return f"its logits are {kind}: its weights are damaged. Copy or download them again."
    return (
        f"its logits are {kind}: its weights are damaged, or too large for {str(model.dtype).removeprefix('torch.')}. "
        "Copy or download them again, or set OMNI_DTYPE=float32."
    )


def explained_by_rounding(
    model: Any, tokens: torch.Tensor, logits: torch.Tensor, num_passes: int | None = None
) -> float:
    """The deviation that another order of the model's sums makes, in its dtype.

    Some models enlarge rounding errors from layer to layer: of SmolLM2-135M's own implementations of attention in
    transformers, two differ by 0.09 of the spread after 300 tokens in bf16, and both are right; the same tokens in
    chunks by 0.16, roundings at random by 0.07 to 0.12.
    """
    least = max(MAX_DEVIATION[model.dtype], explained_by_rounded_inputs(model, tokens, logits))
    if model.dtype == torch.float32:
        return least
    generator = torch.Generator(tokens.device).manual_seed(0)
    largest_found = 0.0
    try:
        for _ in range(num_passes or NUM_ROUNDED.get(tokens.device.type, 3)):
            with rounded_anew(model, generator):
                found = model(input_ids=tokens, use_cache=False).logits[0, -1].float()
            largest_found = max(largest_found, deviation_of(found, logits))
    except Exception as error:  # models of any kind are tried here
        check_device()
        logger.info("what rounding explains is not measured: %s", error)
    return max(least, min(ROUNDINGS * largest_found, MOST_EXPLAINED))


def explained_by_rounded_inputs(model: Any, tokens: torch.Tensor, logits: torch.Tensor) -> float:
    """The deviation that a product of rounded inputs makes where the checkpoint is made for it; 0 for others.

    The stock model does not round, and a runner does where the hardware multiplies such numbers.
    """
    if not layers_that_round(model):
        return 0.0
    with inputs_rounded(model):
        found = model(input_ids=tokens, use_cache=False).logits[0, -1].float()
    return min(ROUNDINGS * deviation_of(found, logits), MOST_EXPLAINED)


@contextmanager
def rounded_anew(model: torch.nn.Module, generator: torch.Generator) -> Iterator[None]:
    """Within this, numbers that the model's layers put out are rounded up or down, at random."""

    def rounded(module: torch.nn.Module, inputs: object, output: object) -> torch.Tensor | None:
        if not isinstance(output, torch.Tensor) or output.dtype not in (torch.bfloat16, torch.float16):
            return None
        draws = torch.rand(output.shape, generator=generator, device=generator.device).to(output.device)
        return (output * (1 + torch.finfo(output.dtype).eps * (2 * draws - 1))).to(output.dtype)

    layers = [part for part in model.modules() if next(part.parameters(recurse=False), None) is not None]
    hooks = [layer.register_forward_hook(rounded) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_equal(runner: Runner, model: Any, expected: Expected) -> float:
    """The deviation of the logits that `runner` computes, in chunks and over its cache. Raises Unsupported."""
    return compared(probe_logits(runner, model), expected)


def probe_logits(runner: Runner, model: Any) -> torch.Tensor:
    """Logits [PROBE_SEQS, vocab] after the probe tokens. Raises Unsupported."""
    *prompt, next_id = probe_tokens(model).tolist()
    sequences = [probe_sequence(prompt) for _ in range(PROBE_SEQS)]
    chunks = PROBE_CHUNKS if len(prompt) < PROBE_LENGTH else GPU_PROBE_CHUNKS
    return logits_after(runner, sequences, next_id, chunks)


def compared(logits: torch.Tensor, expected: Expected) -> float:
    """The largest deviation of a row of logits [B, vocab] from what is expected. Raises Unsupported if it is more."""
    deviation = deviation_of(logits, expected.logits)
    if not deviation <= expected.most:
        raise Unsupported(
            f"its logits differ by {deviation:.2g} of their spread, and rounding explains {expected.most:.2g}"
        )
    return deviation


def deviation_of(logits: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest root mean square of a row of logits [..., vocab] less `expected` [vocab], of the latter's spread."""
    return float(((logits - expected).square().mean(dim=-1).sqrt().max() / expected.std()).item())


def max_deviation(most: float, kv_cache: KVCache) -> float:
    """Of logits over this cache, for a model whose roundings explain `most` over one in its own dtype."""
    return max(most, MAX_FP8_CACHE_DEVIATION) if kv_cache.keys[0].dtype == torch.float8_e4m3fn else most


def logits_after(runner: Runner, sequences: Seq[Sequence], next_id: int, chunks: Seq[int]) -> torch.Tensor:
    """Logits [B, vocab] after identical prompts in these chunks; `next_id` is appended as if it was sampled.

    Raises Unsupported.
    """
    pool = runner.kv_cache.pool
    num_blocks = runner.kv_cache.num_blocks_for(sequences[0].num_tokens + 1)
    if num_blocks * len(sequences) > pool.num_free:
        raise Unsupported(f"{pool.num_free} blocks of the KV cache are free")
    for sequence in sequences:
        sequence.block_ids = pool.allocate(num_blocks)
    try:
        logits = torch.empty(0)
        for num_tokens in chunks:
            logits = runner.forward([ScheduledSequence(sequence, num_tokens) for sequence in sequences])
            for sequence in sequences:
                sequence.advance(num_tokens)
                if sequence.num_computed == sequence.num_prompt_tokens:
                    sequence.append(next_id)
    except Exception as error:  # models of any kind are tried here
        check_device()
        raise Unsupported(f"its forward pass fails on our cache ({type(error).__name__}: {error})") from error
    finally:
        for sequence in sequences:
            runner.kv_cache.free(sequence)
            runner.forget(sequence)
    return logits


def probe_length(model: Any) -> int:
    """Tokens of the probe: few on a CPU, where they take time."""
    longest: int = largest(model.config.get_text_config(), "max_position_embeddings") or GPU_PROBE_LENGTH
    is_long = next(model.parameters()).device.type == "cuda" and longest >= GPU_PROBE_LENGTH
    return GPU_PROBE_LENGTH if is_long else PROBE_LENGTH


def probe_tokens(model: Any) -> torch.Tensor:
    """[probe_length()] token ids, the first dozen all different."""
    vocab_size: int = model.config.get_text_config().vocab_size
    return torch.arange(probe_length(model), device=next(model.parameters()).device) * 7 % (vocab_size - 1) + 1


def probe_sequence(token_ids: Seq[int], images: tuple[str, ...] = (), images_end: int = 0) -> Sequence:
    text = VisibleText(detokenizer=None, stops=(), min_tokens=0)  # type: ignore[arg-type]  # its text is not used
    return Sequence(
        request_id="probe",
        index=0,
        sampling=SamplingParams(max_tokens=1, seed=0),
        token_ids=list(token_ids),
        num_prompt_tokens=len(token_ids),
        text=text,
        stop_token_ids=frozenset(),
        cache_salt="probe",
        images=images,
        images_end=images_end,
    )


@dataclass(frozen=True, slots=True)
class ImageProbe:
    """A prompt with a picture, and the stock model's logits [vocab] after it."""

    token_ids: list[int]
    images: tuple[str, ...]
    images_end: int
    expected: torch.Tensor

    def check(self, runner: Runner, most: float) -> None:
        """Raises Unsupported unless the runner computes the same: half of the picture, the rest, text, a next token."""
        half = self.images_end // 2
        rest = len(self.token_ids) - self.images_end
        chunks = (half, self.images_end - half + 1, rest - 2, 1)
        *prompt, next_id = self.token_ids
        sequences = [probe_sequence(prompt, self.images, self.images_end) for _ in range(PROBE_SEQS)]
        compared(logits_after(runner, sequences, next_id, chunks), Expected(self.expected, most))


@torch.inference_mode()
def image_probe(model: Any, images: ImageProcessor) -> ImageProbe:
    """Call before the attention implementation is replaced. Raises Unsupported."""
    try:
        return _image_probe(model, images)
    except Exception as error:  # processors of any kind are tried here
        raise Unsupported(f"it cannot be tried with a picture ({type(error).__name__}: {error})") from error


def _image_probe(model: Any, images: ImageProcessor) -> ImageProbe:
    words = [token_id for token_id in probe_tokens(model)[:PROBE_LENGTH].tolist() if images.end_of([token_id]) == 0]
    prompt = (*words[:TOKENS_BEFORE_PICTURE], images.token_id, *words[TOKENS_BEFORE_PICTURE:])
    request = GenerationRequest("probe", "probe", prompt, SamplingParams(max_tokens=1, seed=0), images=(picture(),))
    token_ids = list(images.expanded(request).prompt_ids)
    if shifts_positions(model):
        set_position_shift(model, None)
    inputs = torch.tensor([token_ids], device=next(model.parameters()).device)
    seen = images.inputs(request.images, token_ids, model)
    logits = model(input_ids=inputs, use_cache=False, **seen).logits[0, -1].float()
    return ImageProbe(token_ids, request.images, images.end_of(token_ids), logits)


def picture() -> str:
    """A data URL of an image without two equal patches."""
    from PIL import Image

    image = Image.merge("RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.new("L", (256, 256), 80)])
    data = io.BytesIO()
    image.resize((PICTURE_SIDE, PICTURE_SIDE)).save(data, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
