"""The inputs of a vision model beyond token ids: the tokens that each image becomes, and its pixels.

The API writes one token per image, and the model's processor decides how many tokens that becomes. Both depend on the
request only, so another worker, or this one after a preemption, computes the same again.
"""

import logging
from collections.abc import Sequence as Seq
from dataclasses import replace
from typing import Any

import torch
from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, AutoProcessor

from common.errors import InvalidRequest
from common.wire import GenerationRequest, ModelCard
from worker.models.card import templates_of
from worker.models.transformers_seams import position_shift, set_position_shift, shifts_positions
from worker.state.sequence import Sequence

logger = logging.getLogger(__name__)

TORCHVISION = "pip install torchvision==0.28.0 may help"  # the release for the torch of requirements.txt
# inputs that are 1 for an image's tokens, which may attend to each other
TOKEN_KINDS = frozenset({"token_type_ids", "mm_token_type_ids"})
OF_TOKENS = frozenset({*TOKEN_KINDS, "input_ids", "attention_mask", "labels"})


def is_vision_model(model_config: Any) -> bool:
    """True if transformers loads this as a model of images and text."""
    return hasattr(model_config, "vision_config") and type(model_config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING


class MissingPart(Exception):
    """A package that the model's processor needs is not installed; the message names it."""


def image_processor(model_path: str) -> "ImageProcessor | None":
    """The processor of a model; None if a package is missing, and the model is served without images."""
    try:
        return ImageProcessor(model_path)
    except MissingPart as reason:
        logger.warning("%s is served without images (%s): %s", model_path, TORCHVISION, reason)
        return None


class ImageProcessor:
    """A model's processor, and the token that stands for an image in its prompts."""

    def __init__(self, model_path: str) -> None:
        """Raises MissingPart."""
        try:
            self._processor = AutoProcessor.from_pretrained(model_path)
        except (ImportError, AttributeError) as error:  # what transformers raises when a part is not installed
            raise MissingPart(f"its processor needs more than is installed: {' '.join(str(error).split())}") from error
        self.token = str(self._processor.image_token)
        self.token_id = int(self._processor.tokenizer.convert_tokens_to_ids(self.token))
        self._own_token_ids = frozenset(filter(None, self._processor.image_token_ids)) or {self.token_id}

    def extend(self, card: ModelCard) -> ModelCard:
        """The card of the same model with images."""
        template, with_tools = templates_of(getattr(self._processor, "chat_template", None))
        if template is not None:
            card = replace(card, chat_template=template, tool_chat_template=with_tools)
        return replace(card, accepts_images=True, image_token=self.token)

    def expanded(self, request: GenerationRequest) -> GenerationRequest:
        """The request with each image's token replaced by all of its tokens. Raises InvalidRequest."""
        if not request.images:
            return request
        num_places = request.prompt_ids.count(self.token_id)
        if num_places != len(request.images):
            raise InvalidRequest(f"The model's template has {num_places} places for {len(request.images)} images.")
        filled = iter([self._own_ids(image) for image in pictures(request.images)])
        prompt_ids: list[int] = []
        for token_id in request.prompt_ids:
            prompt_ids += next(filled) if token_id == self.token_id else [token_id]
        return replace(request, prompt_ids=tuple(prompt_ids))

    def end_of(self, prompt_ids: Seq[int]) -> int:
        """Tokens of an expanded prompt up to the end of its last image; 0 without images."""
        return next((at for at in range(len(prompt_ids), 0, -1) if prompt_ids[at - 1] in self._own_token_ids), 0)

    def inputs(self, images: Seq[str], token_ids: Seq[int], model: Any) -> dict[str, Any]:
        """Keyword arguments besides `input_ids` for the pass over an expanded prompt. Raises InvalidRequest."""
        if not images:
            return {}
        batch = self._process(pictures(images), return_tensors="pt")
        parameter = next(model.parameters())
        given = {name: _placed(value, parameter) for name, value in batch.items() if name not in OF_TOKENS}
        kinds = [int(token_id in self._own_token_ids) for token_id in token_ids]
        marked = [name for name in TOKEN_KINDS if name in batch and batch[name].any()]
        return given | {name: torch.tensor([kinds], device=parameter.device) for name in marked}

    def _own_ids(self, image: Any) -> list[int]:
        return [int(token_id) for token_id in self._process([image])["input_ids"][0]]

    def _process(self, images: Seq[Any], **options: Any) -> Any:
        try:
            return self._processor(
                text=[self.token * len(images)], images=list(images), add_special_tokens=False, **options
            )
        except (ValueError, TypeError, ArithmeticError) as error:  # for example, an image narrower than a patch
            raise InvalidRequest(f"The model's processor refuses an image: {str(error)[:200]}") from error


def pictures(urls: Seq[str]) -> list[Any]:
    """The images of data URLs. Raises InvalidRequest. Pillow is loaded here, so that texts do without it."""
    from common.images import decoded

    return [decoded(url) for url in urls]


class PositionShifts:
    """How far images shifted the positions of each sequence, for families that keep the last shift on the model."""

    def __init__(self, model: Any) -> None:
        self._model = model if shifts_positions(model) else None
        self._shifts: dict[Sequence, Any] = {}

    def restore(self, sequence: Sequence, *, is_first: bool) -> None:
        """Call before a pass over the sequence; `is_first`: the pass reads it from its first token."""
        if self._model is not None:
            set_position_shift(self._model, None if is_first else self._shifts.get(sequence))

    def save(self, sequence: Sequence) -> None:
        """Call after the pass."""
        if self._model is not None:
            self._shifts[sequence] = position_shift(self._model)

    def forget(self, sequence: Sequence) -> None:
        self._shifts.pop(sequence, None)


def _placed(value: Any, parameter: torch.Tensor) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return value.to(parameter.device, parameter.dtype if value.is_floating_point() else value.dtype)
