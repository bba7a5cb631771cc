"""Pairs of texts as inputs of an encoder: what is cut, what is refused, and what the worker compares."""

import tracemalloc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tokenizers import Tokenizer, processors

from api.prompt.encoder import PromptEncoder
from api.scores.pairs import Inputs, Pairs, inputs_of
from common.errors import ContextLengthExceeded, InvalidRequest
from tests.api.cards import encoder

SPECIAL = ("<|bos|>", "<|im_start|>", "<|im_end|>")


def cross_encoder(max_model_len: int = 20) -> PromptEncoder:
    """Pairs look like BERT's."""
    card = encoder(num_dimensions=4, max_model_len=max_model_len).card
    tokenizer = Tokenizer.from_str(card.tokenizer)
    bos, start, end = (tokenizer.token_to_id(name) for name in SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        "<|bos|> $A <|im_end|>",
        "<|bos|> $A <|im_start|> $B:1 <|im_end|>:1",
        [("<|bos|>", bos), ("<|im_start|>", start), ("<|im_end|>", end)],
    )
    return PromptEncoder(replace(card, tokenizer=tokenizer.to_str(), task="score", num_dimensions=None))


CROSS = cross_encoder()
EMBEDDER = PromptEncoder(replace(CROSS.card, task="embed", num_dimensions=4))
BOS, START, END = (CROSS.token_id(name) or 0 for name in SPECIAL)
Q, A = CROSS.token_id("q") or 0, CROSS.token_id("a") or 0


def pairs(first: Sequence[str], second: Sequence[str], **options: Any) -> Pairs:
    return Pairs(first, second, ("text_1", "text_2"), **{"most_tokens": None} | options)


def test_a_cross_encoder_reads_both_texts_as_one_input() -> None:
    assert inputs_of(pairs(["q"], ["a", "aa", ""]), CROSS) == Inputs(
        [[BOS, Q, START, A, END], [BOS, Q, START, A, A, END], [BOS, Q, START, END]], second_starts=(3, 3, 3)
    )


def test_an_embedder_reads_each_text_once() -> None:
    assert inputs_of(pairs(["q"], ["a", ""]), EMBEDDER) == Inputs(
        [[BOS, Q, END], [BOS, A, END], [BOS, END]], pairs=((0, 1), (0, 2))
    )
    assert inputs_of(pairs(["q", "qq"], ["a", "a"]), EMBEDDER).pairs == ((0, 2), (1, 3))


def test_as_many_first_texts_as_second_ones_go_together_in_order() -> None:
    assert [ids[1] for ids in inputs_of(pairs(["q", "a"], ["a", "q"]), CROSS).ids] == [Q, A]


@pytest.mark.parametrize("model", [CROSS, EMBEDDER])
def test_what_is_too_long_is_refused_by_name_or_cut(model: PromptEncoder) -> None:
    long = pairs(["q"], ["a", "a" * 30])
    with pytest.raises(ContextLengthExceeded, match=r"'text_2\[1\]' has 3\d tokens with its 'text_1'; .* takes 20"):
        inputs_of(long, model)
    assert [len(ids) for ids in inputs_of(replace(long, most_tokens=20), model).ids][-1] == 20
    assert [len(ids) for ids in inputs_of(replace(long, most_tokens=10), model).ids][-1] == 10
    assert inputs_of(replace(long, most_tokens=10), model).ids[-1][-1] == END  # the tokens around texts stay


def test_a_text_that_is_too_long_whatever_its_tokens_are_is_not_encoded() -> None:
    with pytest.raises(ContextLengthExceeded, match="Shorten 'text_2\\[0\\]'"):
        inputs_of(pairs(["q"], ["a" * 100_000]), CROSS)
    assert len(inputs_of(pairs(["q"], ["a" * 100_000], most_tokens=20), CROSS).ids[0]) == 20


@pytest.mark.parametrize("model", [CROSS, EMBEDDER])
def test_a_second_text_may_have_a_limit_of_its_own(model: PromptEncoder) -> None:
    assert inputs_of(pairs(["q"], ["aaaaa"], most_tokens=20, most_of_second=2), model).ids[-1].count(A) == 2


@pytest.mark.parametrize("model", [CROSS, EMBEDDER])
@pytest.mark.parametrize("most", [0, 3])
def test_a_limit_that_leaves_no_text_is_refused(model: PromptEncoder, most: int) -> None:
    with pytest.raises(InvalidRequest, match="must be [45] or more") as refused:
        inputs_of(pairs(["q"], ["a"], most_tokens=most), model)
    assert refused.value.param == "truncate_prompt_tokens"


def test_an_empty_text_needs_a_model_that_puts_tokens_around_it() -> None:
    with pytest.raises(InvalidRequest, match="no tokens for an empty text"):
        inputs_of(pairs(["q"], [""]), encoder(num_dimensions=4))


def test_all_pairs_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.scores.pairs.MAX_INPUT_TOKENS", 20)
    with pytest.raises(InvalidRequest, match="have 25 tokens; a request may have 20"):
        inputs_of(pairs(["q"], ["a"] * 5), CROSS)


def test_pairs_over_the_limit_are_refused_before_their_ids_are_joined() -> None:
    """A query of 6,000 tokens with 2,000 documents would be 12 million ids."""
    model = cross_encoder(8000)
    tracemalloc.start()
    with pytest.raises(InvalidRequest, match="a request may have 300000"):
        inputs_of(pairs(["q" * 6000], ["a"] * 2000), model)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 8 * 2**20
