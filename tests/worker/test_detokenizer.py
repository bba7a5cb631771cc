"""Text comes out token by token, adds up to the whole, and never shows half a character."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.models import small_tokenizer
from worker.detokenizer import MAX_WINDOW, Detokenizer


@cache
def byte_level() -> Tokenizer:
    return small_tokenizer()


@cache
def metaspace() -> Tokenizer:
    """As Llama 2 has it: a word's token carries the space before it, and the first space of a text is dropped."""
    words = ["<unk>", "▁the", "▁fox", "▁jumps", "s", "."]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def pieces(tokenizer: Tokenizer, token_ids: list[int], context: list[int] | None = None) -> list[str]:
    detokenizer = Detokenizer(tokenizer, context or [])
    return [*(detokenizer.push(token_id) for token_id in token_ids), detokenizer.flush()]


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=40))
def test_the_pieces_of_any_text_add_up_to_it_and_hold_no_half_characters(text: str) -> None:
    token_ids = byte_level().encode(text).ids
    *pushed, flushed = pieces(byte_level(), token_ids)
    assert "".join(pushed) + flushed == byte_level().decode(token_ids)
    assert "\ufffd" in text or "\ufffd" not in "".join(pushed) + flushed


@given(st.lists(st.integers(0, 319), max_size=MAX_WINDOW))
def test_the_pieces_of_any_tokens_add_up_to_what_they_decode_to(token_ids: list[int]) -> None:
    assert "".join(pieces(byte_level(), token_ids)) == byte_level().decode(token_ids, skip_special_tokens=True)


def test_an_emoji_appears_when_its_last_byte_has_come() -> None:
    token_ids = byte_level().encode("🙈").ids
    assert len(token_ids) > 1
    *held, last, flushed = pieces(byte_level(), token_ids)
    assert (set(held), last, flushed) == ({""}, "🙈", "")


def test_half_a_character_is_shown_as_a_replacement_only_at_the_end() -> None:
    token_ids = byte_level().encode("a🙈").ids[:-1]
    assert pieces(byte_level(), token_ids)[-1] == "\ufffd"


@pytest.mark.parametrize(("context", "text"), [([], "the foxs."), ([1], " the foxs.")])
def test_a_completion_keeps_the_space_before_its_first_word(context: list[int], text: str) -> None:
    assert "".join(pieces(metaspace(), [1, 2, 4, 5], context)) == text


def test_bytes_that_never_become_a_character_do_not_pile_up() -> None:
    lone_byte = byte_level().encode("ä").ids[0]
    detokenizer = Detokenizer(byte_level())
    for _ in range(10 * MAX_WINDOW):
        detokenizer.push(lone_byte)
    assert len(detokenizer._window) <= 2 * MAX_WINDOW + 2
