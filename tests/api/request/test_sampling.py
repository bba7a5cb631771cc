"""Sampling fields of a chat request, and their defaults."""

import pytest

from api.chat.prepare import chat_input
from api.request.sampling import temperature_of
from api.schema.chat import ChatRequest
from api.schema.parse import parse
from common.grammar.check import GrammarCheck

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
GRAMMARS = GrammarCheck()


def prepared(encoder, **changes):
    return chat_input(parse(ChatRequest, BODY | changes), encoder, GRAMMARS)


def test_sampling_holds_the_fields_sent_and_defaults_for_the_rest(encoder):
    asked = {
        "temperature": 0.1, "top_p": 0.5, "top_k": 4, "min_p": 0.1, "seed": 7, "stop": "x", "stop_token_ids": [3],
        "logit_bias": {"5": -1.5}, "min_tokens": 2, "ignore_eos": True, "logprobs": True, "top_logprobs": 3, "n": 2,
        "presence_penalty": 0.1, "frequency_penalty": 0.2, "repetition_penalty": 1.1, "max_completion_tokens": 9,
        "max_tokens": 5, "skip_special_tokens": False,
    }  # fmt: skip
    sampling = prepared(encoder, **asked).sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p, sampling.seed) == (
        0.1,
        0.5,
        4,
        0.1,
        7,
    )
    assert (sampling.stop, sampling.stop_token_ids, sampling.logit_bias) == (("x",), (3,), ((5, -1.5),))
    assert (sampling.min_tokens, sampling.ignore_eos, sampling.logprobs, sampling.n) == (2, True, 3, 2)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (0.1, 0.2, 1.1)
    assert (sampling.max_tokens, sampling.skip_special_tokens) == (9, False)
    default = prepared(encoder).sampling
    assert (default.temperature, default.top_p, default.max_tokens, default.logprobs) == (0.7, 1.0, 2048, None)


def test_max_tokens_is_cut_to_the_context(encoder):
    ready = prepared(encoder, max_tokens=1_000_000)
    assert ready.sampling.max_tokens == 4096 - len(ready.prompt.ids)


@pytest.mark.parametrize(("asked", "meant"), [(None, 0.7), (0, 0.0), (1e-320, 0.0), (9e-6, 0.0), (1e-4, 1e-4), (2, 2)])
def test_a_temperature_too_small_to_divide_by_is_greedy(asked, meant):
    assert temperature_of(asked) == meant


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_minus_one_asks_for_as_many_tokens_as_the_context_holds(encoder, name):
    chat = prepared(encoder, **{name: -1}, min_tokens=3)
    assert chat.sampling.max_tokens == encoder.card.max_model_len - len(chat.prompt.ids)
