"""Fill-in-the-middle: the tokens by which code models mark the text before and after the gap."""

from collections.abc import Callable
from dataclasses import dataclass

from common.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class FimTokens:
    """The prompt is before + prefix + gap + suffix + answer_here."""

    before: str
    gap: str
    answer_here: str


FAMILIES = (
    FimTokens("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen-Coder, CodeGemma
    FimTokens("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    FimTokens("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek
    FimTokens("▁<PRE>", "▁<SUF>", "▁<MID>"),  # CodeLlama
    FimTokens("<PRE>", "<SUF>", "<MID>"),
)


def fim_tokens(token_id: Callable[[str], int | None]) -> tuple[int, int, int] | None:
    """The ids of a family's tokens; None for a tokenizer without any."""
    for family in FAMILIES:
        before, gap, answer_here = map(token_id, (family.before, family.gap, family.answer_here))
        if before is not None and gap is not None and answer_here is not None:
            return before, gap, answer_here
    return None


def fim_ids(
    prefix: str, suffix: str, token_id: Callable[[str], int | None], encode: Callable[[str], list[int]]
) -> list[int]:
    """The prompt's ids. Raises InvalidRequest for a tokenizer without such tokens."""
    if (found := fim_tokens(token_id)) is not None:
        before, gap, answer_here = found
        return [before, *encode(prefix), gap, *encode(suffix), answer_here]
    raise InvalidRequest(
        "'suffix': this model's tokenizer has no tokens for filling in the middle; send 'prompt' alone.", param="suffix"
    )
