"""Frames of texts and pairs: ids joined by us are those of the tokenizer itself, also when they are cut."""

import pytest
from tokenizers import Tokenizer, processors

from common.model.frames import longest_first, pair_frame, text_frame
from tests.models import small_tokenizer

BERTS = "<|user|>:0 $A:0 <|assistant|>:0 $B:1 <|assistant|>:1"
ROBERTAS = "<|user|> $A <|end|> <|end|> $B <|end|>"
TEXTS = ["the quick brown fox", "a stream", "äöü 🙂 <|end|> fox", "", "x" * 40]


def tokenizer_with(pair: str) -> Tokenizer:
    tokenizer = small_tokenizer()
    names = [(name, tokenizer.token_to_id(name)) for name in ("<|user|>", "<|assistant|>", "<|end|>")]
    tokenizer.post_processor = processors.TemplateProcessing("<|user|> $A <|assistant|>", pair, names)
    return tokenizer


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize("pair", [BERTS, ROBERTAS, "$A $B", "$A:0 $B:1", "<|user|>:0 $A:0 <|assistant|>:1 $B:1"])
def test_a_framed_pair_is_the_tokenizers_own(pair: str) -> None:
    tokenizer = tokenizer_with(pair)
    frame = pair_frame(tokenizer)
    for first in TEXTS:
        for second in TEXTS:
            own = tokenizer.encode(first, second)
            ids, start = frame.framed(ids_of(tokenizer, first), ids_of(tokenizer, second))
            assert ids == own.ids and [0] * start + [1] * (len(ids) - start) == own.type_ids


def test_a_framed_text_is_the_tokenizers_own() -> None:
    tokenizer = tokenizer_with(BERTS)
    for text in TEXTS:
        assert text_frame(tokenizer).framed(ids_of(tokenizer, text)) == tokenizer.encode(text).ids


def test_the_longer_text_is_cut_first_as_the_tokenizer_does_it() -> None:
    tokenizer = tokenizer_with(ROBERTAS)
    frame = pair_frame(tokenizer)
    for most in (6, 7, 9, 12, 23, 60):
        for first in ("x", "x" * 4, "x" * 5, "x" * 20):
            for second in ("y", "y" * 4, "y" * 5, "y" * 21):
                tokenizer.enable_truncation(most, strategy="longest_first")
                own = tokenizer.encode(first, second).ids
                tokenizer.no_truncation()
                ours, theirs = ids_of(tokenizer, first), ids_of(tokenizer, second)
                num_ours, num_theirs = longest_first(len(ours), len(theirs), most - frame.size)
                assert frame.framed(ours[:num_ours], theirs[:num_theirs])[0] == own, (most, first, second)


def test_a_tokenizer_that_marks_the_second_text_otherwise_is_refused() -> None:
    for pair in ("$B:0 $A:1", "$A:1 $B:0", "<|user|>:2 $A:0 $B:1"):
        with pytest.raises(ValueError, match="pair in a way"):
            pair_frame(tokenizer_with(pair))
