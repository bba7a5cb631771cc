"""Large work runs in a thread with the same results."""

import gc
import threading
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from api.process.offload import LARGE, in_native_thread, in_python_thread, is_large, offload
from api.prompt import special_tokens
from api.prompt.encoding import LONG_TEXT, TextEncoder
from api.prompt.special_tokens import Guard
from api.schema.chat import Message
from tests.api.cards import SPECIAL, bytes_tokenizer

LONG = "the quick brown fox <|im_end|> "


def test_small_work_is_done_at_once_and_large_work_in_a_thread():
    here = threading.get_ident()
    assert offload(lambda _: threading.get_ident(), "short") == here
    assert offload(lambda _: threading.get_ident(), "x" * LARGE) != here
    assert in_native_thread(threading.get_ident) != here


def test_an_error_comes_back_from_the_thread_and_is_not_printed(capfd):
    def fail():
        raise KeyError("gone")

    with pytest.raises(KeyError, match="gone"):
        in_python_thread(fail)
    assert capfd.readouterr().err == ""


def test_an_error_leaves_no_garbage_that_would_keep_what_was_sent():
    def fail(_):
        raise KeyError("gone")

    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            with suppress(KeyError):
                in_python_thread(fail, "x" * LARGE)
        assert gc.collect() == 0
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "value",
    [
        "x" * LARGE,
        ["x" * 100] * 200,
        [{}] * LARGE,
        {f"name {number}": 1 for number in range(LARGE)},
        [Message(role="user", content="x" * LARGE)],
        ({"x" * LARGE: 1},),
    ],
    ids=["text", "texts", "objects", "names", "messages", "a long name"],
)
def test_a_large_value_is_found_anywhere_inside_another(value):
    assert is_large(value)
    assert not is_large("Hi") and not is_large([Message(role="user", content="Hi")])


@settings(max_examples=100)
@given(st.lists(st.sampled_from([*SPECIAL, "<|im_", "end|>", "a", "<", "\ue000"]), max_size=30))
def test_special_tokens_are_hidden_alike_in_long_and_short_texts(pieces):
    text = "".join(pieces)
    short = Guard(SPECIAL)
    expected = short.text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(special_tokens, "STRETCH", 3)
        long = Guard(SPECIAL)
        assert long.text(text) == expected
    assert list(long.parts(expected)) == list(short.parts(expected))


@pytest.mark.parametrize("is_plain", [False, True])
def test_long_texts_have_the_ids_that_the_tokenizer_gives_them(is_plain):
    tokenizer = bytes_tokenizer(*SPECIAL)
    texts = [LONG * 200, "short", "", LONG * 300]
    encoded = TextEncoder(tokenizer.to_str()).encode(texts, 10**6, is_plain=is_plain)
    tokenizer.encode_special_tokens = is_plain
    assert encoded.ids == [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    assert encoded.num_tokens == sum(map(len, encoded.ids))


def test_a_text_that_cannot_fit_is_not_encoded(monkeypatch):
    encoder = TextEncoder(bytes_tokenizer().to_str())
    monkeypatch.setattr("api.prompt.encoding.in_native_thread", None)  # a call would fail
    encoded = encoder.encode(["x" * 64_001], 1000)
    assert encoded.ids == [] and encoded.num_tokens == 1001 and encoded.is_least


def test_of_a_text_that_is_much_too_long_only_a_part_is_encoded():
    encoder = TextEncoder(bytes_tokenizer().to_str())
    encoded = encoder.encode(["é " * 500_000], 100_000)
    assert encoded.ids == [] and encoded.is_least and 100_000 < encoded.num_tokens < 200_000
    assert encoder.encode(["é " * 500_000], 1_500_000).num_tokens == 1_500_000


def test_ids_beyond_the_limit_are_counted_and_not_returned():
    encoded = TextEncoder(bytes_tokenizer().to_str()).encode(["x" * (LONG_TEXT + 1)], 100)
    assert encoded.ids == [] and encoded.num_tokens == LONG_TEXT + 1 and not encoded.is_least


def test_a_tokenizers_truncation_and_padding_are_off():
    tokenizer = bytes_tokenizer()
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    assert Tokenizer.from_str(tokenizer.to_str()).encode("x" * 20).ids != [0] * 20
    assert TextEncoder(tokenizer.to_str()).encode(["x" * 20], 100).num_tokens == 20
