"""A request resumed after any logged token continues exactly: text, incomplete characters, stop strings."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.model.spelling import byte_alphabet
from common.wire import GenerationRequest, LoggedChoice, ModelCard, SamplingParams
from tests.worker.state.test_detokenizer import BYTES, DECODERS, tokenizer_of
from worker.engine.admission import Admission
from worker.state.sequence import RequestState

MAX_LEN = 500
SPELLINGS = {"Llama 2": BYTES, "Gemma": BYTES, "byte-level": byte_alphabet()}


def admission_of(kind: str) -> tuple[Admission, dict[str, int]]:
    tokenizer = tokenizer_of(SPELLINGS[kind], DECODERS[kind])
    card = ModelCard(
        queue="m", names=("m",), root="m", revision="1", architecture="llama", max_model_len=MAX_LEN,
        vocab_size=tokenizer.get_vocab_size(), created=1, tokenizer="", chat_template=None,
    )  # fmt: skip
    return Admission(tokenizer, card, None), tokenizer.get_vocab()


def accepted(state: RequestState, token_ids: list[int]) -> str:
    return "".join(state.sequences[0].accept(token_id, MAX_LEN) for token_id in token_ids)


@pytest.mark.parametrize("kind", SPELLINGS)
@given(st.text("ab é괜🙈", min_size=1, max_size=10), st.sampled_from([(), ("b",), ("괜", "é🙈")]), st.data())
def test_after_any_token_the_rest_is_the_same(kind: str, text: str, stop: tuple[str, ...], data: st.DataObject) -> None:
    admission, vocabulary = admission_of(kind)
    token_ids = [vocabulary[SPELLINGS[kind][byte]] for byte in text.encode()]
    sampling = SamplingParams(max_tokens=len(token_ids) + 1, seed=1, stop=stop)
    request = GenerationRequest("r", "m", (vocabulary[SPELLINGS[kind][ord("x")]],), sampling)
    whole = admission.open(request, {})
    assert isinstance(whole, RequestState)
    texts: list[str] = []
    for token_id in token_ids:
        texts.append(accepted(whole, [token_id]))
        if whole.is_finished:
            break
    cut = data.draw(st.integers(0, len(texts) - 1))
    resumed = admission.open(request, {0: LoggedChoice(tuple(token_ids[:cut]), "".join(texts[:cut]))})
    assert isinstance(resumed, RequestState)
    assert accepted(resumed, token_ids[cut : len(texts)]) == "".join(texts[cut:])
    assert resumed.sequences[0].finish_reason == whole.sequences[0].finish_reason
    if not stop:
        assert "".join(texts) == text
