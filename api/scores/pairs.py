"""Pairs of texts -> inputs of an encoder. Pure.

A cross-encoder reads the two texts of a pair as one input. An embedder reads each text once, and its worker compares
the vectors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from api.prompt.encoder import PromptEncoder
from api.prompt.encoding import LONG_TOKEN
from api.schema.embeddings import MAX_INPUT_TOKENS
from common.errors import ContextLengthExceeded, InvalidRequest
from common.model.frames import longest_first


@dataclass(frozen=True, slots=True)
class Pairs:
    """The texts of a request: the one first text goes with each second text, or each with its own."""

    first: Sequence[str]
    second: Sequence[str]
    params: tuple[str, str]  # the fields that they came in
    most_tokens: int | None  # of a pair, or of an embedder's text; what is longer is cut. None: the model's, not cut
    most_of_second: int | None = None  # tokens that are left of a second text

    def __len__(self) -> int:
        return len(self.second)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The fields of a GenerationRequest."""

    ids: list[list[int]]
    second_starts: tuple[int, ...] = ()
    pairs: tuple[tuple[int, int], ...] = ()


def inputs_of(pairs: Pairs, encoder: PromptEncoder) -> Inputs:
    """Raises InvalidRequest or ContextLengthExceeded."""
    first = token_ids(pairs, 0, encoder)
    second = [ids[: pairs.most_of_second] for ids in token_ids(pairs, 1, encoder)]
    return (joined if encoder.card.task == "score" else apart)(pairs, first, second, encoder)


def token_ids(pairs: Pairs, side: int, encoder: PromptEncoder) -> list[list[int]]:
    """Each text's ids, without the tokens that the model puts around it."""
    texts, param = (pairs.first, pairs.second)[side], pairs.params[side]
    if pairs.most_tokens is None:
        for number, text in enumerate(texts):
            encoder.check_length(text, f"{param}[{number}]")
    else:
        texts = [text[: encoder.card.max_model_len * LONG_TOKEN] for text in texts]
    return encoder.tokenize_all(texts, MAX_INPUT_TOKENS, add_special_tokens=False, param=param)


def joined(pairs: Pairs, first: list[list[int]], second: list[list[int]], encoder: PromptEncoder) -> Inputs:
    """One input for each pair. What is too long loses the end of its longer text, or is refused."""
    frame = encoder.pair_frame
    room = room_of(pairs, frame.size, encoder)
    cuts = []
    for number, theirs in enumerate(second):
        ours = first[number if len(first) > 1 else 0]
        cut = longest_first(len(ours), len(theirs), room)
        if pairs.most_tokens is None and cut != (len(ours), len(theirs)):
            raise too_long(pairs, number, len(ours) + len(theirs) + frame.size, encoder)
        cuts.append(cut)
    check_total(pairs, sum(map(sum, cuts)) + frame.size * len(cuts))  # first: one long text may go with thousands
    framed = [
        frame.framed(first[number if len(first) > 1 else 0][:num_ours], second[number][:num_theirs])
        for number, (num_ours, num_theirs) in enumerate(cuts)
    ]
    return Inputs([ids for ids, _ in framed], second_starts=tuple(start for _, start in framed))


def apart(pairs: Pairs, first: list[list[int]], second: list[list[int]], encoder: PromptEncoder) -> Inputs:
    """One input for each text."""
    frame = encoder.text_frame
    room = room_of(pairs, frame.size, encoder)
    for number, ids in enumerate(second):
        longest = max(len(ids), len(first[number if len(first) > 1 else 0]))
        if pairs.most_tokens is None and longest > room:
            raise too_long(pairs, number, longest + frame.size, encoder)
    inputs = [frame.framed(ids[:room]) for ids in (*first, *second)]
    check_total(pairs, sum(map(len, inputs)))
    if not all(inputs):
        raise InvalidRequest(f"'{pairs.params[1]}': this model has no tokens for an empty text.", param=pairs.params[1])
    at = len(first)
    return Inputs(inputs, pairs=tuple((number if at > 1 else 0, at + number) for number in range(len(second))))


def check_total(pairs: Pairs, num_tokens: int) -> None:
    """Raises InvalidRequest."""
    if num_tokens > MAX_INPUT_TOKENS:
        param = pairs.params[1]
        raise InvalidRequest(
            f"'{param}': all pairs together have {num_tokens} tokens; a request may have {MAX_INPUT_TOKENS}.",
            param=param,
        )


def room_of(pairs: Pairs, num_framing: int, encoder: PromptEncoder) -> int:
    """The most tokens of the texts of one input."""
    most = encoder.card.max_model_len
    room = (most if pairs.most_tokens is None else min(pairs.most_tokens, most)) - num_framing
    if room < 2:
        raise InvalidRequest(
            f"'truncate_prompt_tokens' must be {num_framing + 2} or more, or -1 for as many as the model takes.",
            param="truncate_prompt_tokens",
        )
    return room


def too_long(pairs: Pairs, number: int, length: int, encoder: PromptEncoder) -> ContextLengthExceeded:
    most, param = encoder.card.max_model_len, f"{pairs.params[1]}[{number}]"
    return ContextLengthExceeded(
        f"'{param}' has {length} tokens with its '{pairs.params[0]}'; this model takes {most}. Shorten it, or send "
        "'truncate_prompt_tokens': -1.",
        param=pairs.params[1],
        num_tokens=length,
        most=most,
    )
