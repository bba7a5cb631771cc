"""Text comes out token by token, adds up to what the decoder makes of all tokens, and never shows half a character."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models

from common.model.spelling import Spelling, byte_alphabet
from tests.models import small_tokenizer
from worker.state.detokenizer import MAX_SILENT, Detokenizer

SPECIAL = "<|end|>"
METASPACE = decoders.Replace("▁", " ")
SENTENCEPIECE = [METASPACE, decoders.ByteFallback(), decoders.Fuse()]
BYTE_FALLBACK = {  # as real models have it
    "Llama 2": decoders.Sequence([*SENTENCEPIECE, decoders.Strip(" ", 1, 0)]),
    "Gemma": decoders.Sequence(SENTENCEPIECE),
}
DECODERS: dict[str, Any] = BYTE_FALLBACK | {
    "byte-level": decoders.ByteLevel(),
    "byte-level, and more": decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)]),
    "Metaspace": decoders.Metaspace(),
    "Metaspace, nothing prepended": decoders.Metaspace(prepend_scheme="never"),
    "WordPiece": decoders.WordPiece(),
    "WordPiece, not cleaned up": decoders.WordPiece(cleanup=False),
    "suffix": decoders.BPEDecoder(),
    "CTC": decoders.CTC(),
    "none": None,
}
WORDS = [
    *"the ▁the ▁ ▁▁▁ s ##s ##ing s</w> . ▁. n't ' Ġthe Ċ 日 日本 👨 🏽 🇫🇷 \ufffd \ufffd▁ | <pad> <0x4Z>".split(),
    *("\u0301", "\u200d", "a b", "｜D▁E｜", SPECIAL),
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ALPHABET = byte_alphabet()
TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from("é🙈日本🇫🇷👨‍👩‍👧\u0301▁ \ufffd"), max_size=30)
BROKEN = st.lists(st.sampled_from([*range(0x80, 0xC2), *range(0xF5, 0x100)]), min_size=1, max_size=5)  # in no character


def tokenizer_of(names: list[str], decoder: Any) -> Tokenizer:
    """A token for each name; ids are their places in the sorted vocabulary."""
    tokenizer = Tokenizer(models.WordLevel({name: at for at, name in enumerate(sorted({*names, "<unk>", SPECIAL}))}))
    if decoder is not None:
        tokenizer.decoder = decoder
    tokenizer.add_special_tokens([AddedToken(SPECIAL, special=True)])
    return tokenizer


def streamed(tokenizer: Tokenizer, token_ids: list[int], context: list[int], skips: bool = True) -> str:
    detokenizer = Detokenizer(Spelling(tokenizer), context, skip_special_tokens=skips)
    return "".join(map(detokenizer.push, token_ids))


def check(names: list[str], decoder: Any, num_context: int = 0, skips: bool = True, *, whole: bool = True) -> None:
    """The pieces add up to the decoder's text after the context; if it may end in half a character, without that."""
    tokenizer = tokenizer_of(names, decoder)
    ids = [tokenizer.token_to_id(name) for name in names]
    context, token_ids = ids[:num_context], ids[num_context:]
    before = tokenizer.decode(context, skip_special_tokens=skips)
    text = tokenizer.decode(ids, skip_special_tokens=skips)
    assert text.startswith(before)
    said = streamed(tokenizer, token_ids, context, skips)
    if not whole and said != text[len(before) :]:
        said, text = said.rstrip("\ufffd"), text.rstrip("\ufffd")
    assert said == text[len(before) :]


@pytest.mark.parametrize("kind", DECODERS)
@given(st.lists(st.sampled_from(WORDS), max_size=40), st.integers(0, 3), st.booleans())
@example(["▁the", SPECIAL, "▁the"], 1, True)
@example(["▁", "▁", "▁the", "▁", "▁the"], 0, True)
def test_any_tokens_of_text_add_up_to_the_decoders_text(
    kind: str, names: list[str], num_context: int, skips: bool
) -> None:
    check(names, DECODERS[kind], min(num_context, len(names)), skips)


@given(st.data(), st.lists(TEXTS.map(str.encode) | st.binary(max_size=6), max_size=4), st.booleans())
def test_bytes_in_any_tokens_add_up_to_the_decoders_text(data: st.DataObject, parts: list[bytes], strips: bool) -> None:
    raw = b"".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=20).map(sorted))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    names = ["".join(ALPHABET[byte] for byte in piece) for piece in pieces]
    check(names, DECODERS["byte-level, and more" if strips else "byte-level"], whole=False)


@pytest.mark.parametrize("kind", BYTE_FALLBACK)
@given(st.lists(TEXTS.map(str.encode) | st.sampled_from(WORDS) | BROKEN.map(bytes), max_size=8), st.booleans())
@example(["괜찮아요 🇫🇷🇩🇪 憂鬱".encode()], True)
@example(["▁the", "🙈".encode(), SPECIAL, "日本".encode(), "▁the"], True)
def test_rows_of_byte_tokens_add_up_to_the_decoders_text(kind: str, parts: list[bytes | str], skips: bool) -> None:
    names: list[str] = []
    for before, part in pairwise(["", *parts]):
        if isinstance(before, bytes) and isinstance(part, bytes):
            names.append("s")  # only runs that are all text or no text; the next test has mixed ones
        names += [part] if isinstance(part, str) else [BYTES[byte] for byte in part]
    has_broken = any(isinstance(part, bytes) and not part.decode(errors="ignore") for part in parts)
    assume(not (has_broken and skips and SPECIAL in parts))  # a token that is left out joins two rows
    check(names, DECODERS[kind], skips=skips, whole=False)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("é".encode() + b"\xff" + "日".encode(), "é�日"),
        (b"\xf0\x9f\x99\xf0\x9f\x99\x88", "���🙈"),
        (b"\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80", "�" * 9),
        (b"\x80ab\xe2\x82", "�ab"),
        ("\ufffd\ufffd".encode(), "\ufffd\ufffd"),
    ],
)
def test_broken_bytes_take_no_character_of_their_row_with_them(raw: bytes, text: str) -> None:
    tokenizer = tokenizer_of(BYTES, DECODERS["Gemma"])
    assert streamed(tokenizer, [tokenizer.token_to_id(BYTES[byte]) for byte in raw], []) == text


@given(TEXTS)
def test_a_text_cut_anywhere_shows_its_whole_characters_at_once_and_no_half_ones(text: str) -> None:
    raw = text.encode()
    for kind, spell in (("Gemma", BYTES), ("byte-level", ALPHABET)):
        tokenizer = tokenizer_of(list(spell), DECODERS[kind])
        detokenizer = Detokenizer(Spelling(tokenizer))
        said = ""
        for at, byte in enumerate(raw, 1):
            said += detokenizer.push(tokenizer.token_to_id(spell[byte]))
            assert said == raw[:at].decode(errors="ignore")


@pytest.mark.parametrize(("kind", "spell"), [("Llama 2", BYTES), ("byte-level", ALPHABET)])
def test_a_character_that_the_prompt_began_is_the_answers(kind: str, spell: list[str]) -> None:
    tokenizer = tokenizer_of(list(spell), DECODERS[kind])
    ids = [tokenizer.token_to_id(spell[byte]) for byte in "a🙈".encode()]
    for num_context in (2, 3, 4):
        assert streamed(tokenizer, ids[num_context:], ids[:num_context]) == "🙈"


def test_a_trained_vocabulary_gives_its_texts_back() -> None:
    text = "the quick äöü ß 你好 🙂 👨‍👩‍👧 \ufffd"
    assert streamed(small_tokenizer(), small_tokenizer().encode(text).ids, []) == text


def test_ids_outside_the_vocabulary_are_no_text() -> None:
    tokenizer = tokenizer_of(BYTES, DECODERS["Gemma"])
    assert streamed(tokenizer, [tokenizer.token_to_id("<0x41>"), 10**6], []) == "A"


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("name", ["", "Ã", "<0xC3>", "<0x80>", "<pad>", "▁", SPECIAL, "s"])
def test_no_token_makes_later_ones_dearer(kind: str, name: str) -> None:
    tokenizer = tokenizer_of([name], DECODERS[kind])
    detokenizer = Detokenizer(Spelling(tokenizer))
    for _ in range(20 * MAX_SILENT):
        detokenizer.push(tokenizer.token_to_id(name))
    assert len(detokenizer._window) <= 2 * MAX_SILENT + 4
