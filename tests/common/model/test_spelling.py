"""The bytes of tokens, as logprobs show them."""

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models

from common.model.spelling import Spelling, shown

SENTENCEPIECE = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]


@pytest.mark.parametrize(
    ("decoder", "names", "text"),
    [
        (decoders.ByteLevel(), ["the", "Ġfox", "Ã", "¤", "｜D｜"], "the foxä｜D｜"),
        (decoders.Sequence(SENTENCEPIECE), ["▁the", "▁fox", "<0xC3>", "<0xA4>", "日"], " the foxä日"),
        (decoders.Metaspace(), ["▁the", "▁fox", "s"], " the foxs"),
        (decoders.WordPiece(), ["the", "fox", "##s", ".", "<0xC3>"], " the foxs. <0xC3>"),
        (None, ["the", "fox"], " the fox"),
    ],
)
def test_the_bytes_of_tokens_add_up_to_their_text(decoder: Any, names: list[str], text: str) -> None:
    tokenizer = Tokenizer(models.WordLevel({name: at for at, name in enumerate(names)}))
    if decoder is not None:
        tokenizer.decoder = decoder
    spelling = Spelling(tokenizer)
    assert b"".join(map(spelling.token_bytes, range(len(names)))).decode() == text
    assert spelling.token_bytes(len(names)) == b""


def test_half_a_character_is_shown_by_its_bytes() -> None:
    assert shown("aä".encode()[:-1]) == "a\\xc3"
