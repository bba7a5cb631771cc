"""The inputs of an encoder: taken from a request, and padded to one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch

from common.errors import InvalidRequest
from common.wire import GenerationRequest, ModelCard


@dataclass(frozen=True, slots=True, eq=False)
class EncoderInput:
    """One input of a request: a text, or the pair of texts that a cross-encoder scores."""

    request_id: str
    index: int
    token_ids: tuple[int, ...]
    second_start: int = 0  # of a pair: where its second text begins


def inputs_of(request: GenerationRequest, card: ModelCard) -> list[EncoderInput]:
    """The inputs of a request. Raises InvalidRequest for a request that is not for this kind of model."""
    lengths, ids, starts = request.input_lengths, request.prompt_ids, request.second_starts
    if sum(lengths) != len(ids) or not ids or len(starts) != (len(lengths) if card.task == "score" else 0):
        made = "scores of pairs" if card.task == "score" else "embeddings and their similarity"
        raise InvalidRequest(f"This model makes {made} only.")
    if request.pairs and not 0 <= min(map(min, request.pairs)) <= max(map(max, request.pairs)) < len(lengths):
        raise InvalidRequest("A pair names an input that is not there.")
    if not 0 < min(lengths) <= max(lengths) <= card.max_model_len:
        raise InvalidRequest(f"A text has more than {card.max_model_len} tokens, or none.")
    if not 0 <= min(ids) <= max(ids) < card.vocab_size:
        raise InvalidRequest("An input holds a token id outside the vocabulary.")
    bounds = pairwise(accumulate(lengths, initial=0))
    return [
        EncoderInput(request.id, index, ids[at:end], start)
        for index, ((at, end), start) in enumerate(zip(bounds, starts or [0] * len(lengths), strict=True))
    ]


def padded(inputs: Sequence[EncoderInput], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask [B, T] (1: token, 0: padding, which follows the tokens)."""
    length = max(len(item.token_ids) for item in inputs)
    ids = torch.tensor([[*item.token_ids, *[padding] * (length - len(item.token_ids))] for item in inputs])
    lengths = torch.tensor([len(item.token_ids) for item in inputs])
    return ids, (torch.arange(length) < lengths[:, None]).long()


def text_types(inputs: Sequence[EncoderInput], length: int) -> torch.Tensor:
    """[B, T]: 1 for the tokens of each pair's second text, otherwise 0."""
    places = torch.arange(length)
    starts = torch.tensor([item.second_start for item in inputs])[:, None]
    ends = torch.tensor([len(item.token_ids) for item in inputs])[:, None]
    return ((places >= starts) & (places < ends)).long()
