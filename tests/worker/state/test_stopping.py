"""Finish reasons are right, and nothing of a stop string is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model.spelling import Spelling
from tests.worker.state.test_detokenizer import ALPHABET, BYTES, DECODERS, tokenizer_of
from worker.state.detokenizer import Detokenizer
from worker.state.stopping import StopStrings, VisibleText, finish_reason

ENDS = frozenset({7})


@pytest.mark.parametrize(
    ("token_id", "num_completion", "num_tokens", "reason"),
    [(7, 1, 5, "stop"), (7, 10, 5, "stop"), (1, 10, 20, "length"), (1, 2, 64, "length"), (1, 9, 63, None)],
)
def test_a_stop_token_wins_over_the_length(
    token_id: int, num_completion: int, num_tokens: int, reason: str | None
) -> None:
    found = finish_reason(token_id, num_completion, num_tokens, stop_token_ids=ENDS, max_tokens=10, max_model_len=64)
    assert found == reason


def run(stops: tuple[str, ...], pieces: list[str]) -> tuple[list[str], bool]:
    matcher = StopStrings(stops)
    shown = [matcher.push(piece) for piece in pieces]
    return [*shown, matcher.flush()], matcher.has_matched


def test_text_that_may_begin_a_stop_string_is_held_until_it_is_clear() -> None:
    assert run(("END",), ["a E", "N", "X"]) == (["a ", "", "ENX", ""], False)
    assert run(("END",), ["a E", "N"]) == (["a ", "", "EN"], False)


def test_the_earliest_of_several_stop_strings_cuts_the_text() -> None:
    assert run(("yz", "b"), ["a", "byz", "c"]) == (["a", "", "", ""], True)


@given(st.lists(st.text("ab", max_size=3)), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_the_visible_text_ends_before_the_first_stop_string_however_it_is_cut(
    pieces: list[str], stops: list[str]
) -> None:
    text = "".join(pieces)
    shown, has_matched = run(tuple(stops), pieces)
    first_end = min((end for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stops)), default=None)
    assert has_matched is (first_end is not None)
    if first_end is None:
        assert "".join(shown) == text
    else:
        longest = max(len(stop) for stop in stops if text[:first_end].endswith(stop))
        assert "".join(shown) == text[: first_end - longest]


@given(
    st.text("a é🙈", max_size=12),
    st.lists(st.text("a é🙈", min_size=1, max_size=3), min_size=1, max_size=2),
    st.sampled_from(["Llama 2", "byte-level"]),
)
def test_a_stop_string_cuts_a_text_that_comes_byte_by_byte_at_the_same_place(
    text: str, stops: list[str], kind: str
) -> None:
    names = BYTES if kind == "Llama 2" else ALPHABET
    tokenizer = tokenizer_of(list(names), DECODERS[kind])
    visible = VisibleText(Detokenizer(Spelling(tokenizer), [tokenizer.token_to_id(names[ord("x")])]), tuple(stops), 0)
    shown = "".join(visible.push(tokenizer.token_to_id(names[byte])) for byte in text.encode()) + visible.flush()
    by_characters, has_matched = run(tuple(stops), list(text))
    assert (shown, visible.is_stopped) == ("".join(by_characters), has_matched)


@pytest.mark.parametrize("kind", ["Llama 2", "byte-level"])
@pytest.mark.parametrize(("stops", "shown"), [((), "a\ufffd"), (("ab",), "a\ufffd"), (("a",), "")])
@pytest.mark.parametrize("num_bytes", [1, 2, 3])
def test_a_character_that_the_end_cuts_is_one_u_fffd(
    kind: str, stops: tuple[str, ...], shown: str, num_bytes: int
) -> None:
    names = BYTES if kind == "Llama 2" else ALPHABET
    tokenizer = tokenizer_of(list(names), DECODERS[kind])
    ids = [tokenizer.token_to_id(names[byte]) for byte in "a🙈".encode()]
    visible = VisibleText(Detokenizer(Spelling(tokenizer), [tokenizer.token_to_id(names[ord("x")])]), stops, 0)
    assert "".join(visible.push(token_id) for token_id in ids[: 1 + num_bytes]) + visible.flush() == shown
    assert visible.flush() == ""
    of_the_prompt = VisibleText(Detokenizer(Spelling(tokenizer), ids[:2]), stops, 0)
    assert of_the_prompt.flush() == ""
