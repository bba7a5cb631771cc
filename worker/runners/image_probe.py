"""The probe of vision models: one small picture among a dozen tokens."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from common.wire import GenerationRequest, SamplingParams
from worker.models.transformers_seams import set_position_shift, shifts_positions
from worker.models.vision import ImageProcessor
from worker.runners.base import Runner
from worker.runners.probe import PROBE_SEQS, Unsupported, check_sequences, probe_sequence, probe_tokens

SIDE = 64  # pixels
NUM_BEFORE = 4  # tokens before the picture


@dataclass(frozen=True, slots=True)
class ImageProbe:
    """A prompt with a picture, and the stock model's logits [vocab] after it."""

    token_ids: list[int]
    images: tuple[str, ...]
    images_end: int
    expected: torch.Tensor

    def check(self, runner: Runner, dtype: torch.dtype) -> None:
        """Raises Unsupported unless the runner computes the same: half of the picture, the rest, text, a next token."""
        half = self.images_end // 2
        rest = len(self.token_ids) - self.images_end
        chunks = (half, self.images_end - half + 1, rest - 2, 1)
        sequences = [probe_sequence(self.token_ids, self.images, self.images_end) for _ in range(PROBE_SEQS)]
        check_sequences(runner, sequences, chunks, self.expected, dtype)


@torch.inference_mode()
def image_probe(model: Any, images: ImageProcessor) -> ImageProbe:
    """Call before the attention implementation is replaced. Raises Unsupported."""
    try:
        return _image_probe(model, images)
    except Exception as error:  # processors of any kind are tried here
        raise Unsupported(f"it cannot be tried with a picture ({type(error).__name__}: {error})") from error


def _image_probe(model: Any, images: ImageProcessor) -> ImageProbe:
    words = [token_id for token_id in probe_tokens(model).tolist() if images.end_of([token_id]) == 0]
    prompt = (*words[:NUM_BEFORE], images.token_id, *words[NUM_BEFORE:])
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
    image = Image.merge("RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.new("L", (256, 256), 80)])
    data = io.BytesIO()
    image.resize((SIDE, SIDE)).save(data, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(data.getvalue()).decode()}"
