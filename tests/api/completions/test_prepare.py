"""Fields that are refused, and the jobs that the prompts of a request become."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from api.completions.chunks import CompletionMeta
from api.completions.prepare import prepare
from api.jobs.generation import submit_all
from api.prompt.encoder import PromptEncoder
from api.request.response_meta import job_ids
from api.request.submission import Prepared, Sender, submissions
from api.schema.completions import CompletionRequest
from common.errors import ContextLengthExceeded, InvalidRequest, Overloaded
from common.redis import keys
from common.redis.store import Store
from common.wire import SamplingParams
from tests.api.calls import call_of
from tests.api.cards import encoder

TINY = encoder()


def prepared(body: dict[str, Any], model: PromptEncoder = TINY) -> Prepared[CompletionMeta]:
    return prepare(call_of(CompletionRequest, {"model": "tiny"} | body, model))


def ids_of(body: dict[str, Any], model: PromptEncoder = TINY) -> list[tuple[int, ...]]:
    return [request.prompt_ids for request in prepared(body, model).requests]


def sampling_of(body: dict[str, Any]) -> SamplingParams:
    return prepared(body).requests[0].sampling


def test_a_prompt_may_be_text_texts_ids_or_lists_of_ids() -> None:
    a, b = TINY.token_id("a"), TINY.token_id("b")
    assert ids_of({"prompt": "ab"}) == ids_of({"prompt": [a, b]}) == [(a, b)]
    assert ids_of({"prompt": ["a", "b"]}) == ids_of({"prompt": [[a], [b]]}) == [(a,), (b,)]


def test_every_prompt_is_a_job_whose_id_follows_from_the_answer_s() -> None:
    ready = prepared({"prompt": ["a", "b", "c"]})
    answer_id = ready.meta.id
    ids = [request.id for request in ready.requests]
    assert ids == job_ids(answer_id, 3) == [answer_id, f"{answer_id}-1", f"{answer_id}-2"]


def test_the_jobs_together_store_all_that_the_answer_is_worded_from() -> None:
    ready = prepared({"prompt": ["a", "b"], "echo": True, "return_token_ids": True, "n": 2})
    forms = ready.meta.forms()
    assert [form["echo"] for form in forms] == ["a", "b"] and CompletionMeta.num_jobs(forms[0]) == 2
    assert CompletionMeta.from_forms(orjson.loads(orjson.dumps(forms))) == ready.meta


def test_openais_default_of_sixteen_tokens_holds_and_the_context_bounds_the_rest() -> None:
    assert sampling_of({"prompt": "a"}).max_tokens == 16
    assert sampling_of({"prompt": "a" * 90, "max_tokens": 50}).max_tokens == 10


def test_a_special_token_in_a_raw_prompt_is_that_token() -> None:
    assert ids_of({"prompt": "<|im_end|>"}) == [(TINY.token_id("<|im_end|>"),)]


def test_the_tokenizers_own_beginning_is_added_unless_refused() -> None:
    model = encoder(adds_bos=True)
    bos, a = model.token_id("<|bos|>"), model.token_id("a")
    assert ids_of({"prompt": "a"}, model) == [(bos, a)]
    assert ids_of({"prompt": "a", "add_special_tokens": False}, model) == [(a,)]
    assert ids_of({"prompt": [a]}, model) == [(a,)]


def test_a_suffix_is_filled_in_with_the_tokenizers_own_tokens_and_code_stays_text() -> None:
    model = encoder(fim=True)
    a, b = model.token_id("a"), model.token_id("b")
    before, gap, here = map(model.token_id, ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"))
    assert ids_of({"prompt": "a", "suffix": "b"}, model) == [(before, a, gap, b, here)]
    tricky = ids_of({"prompt": "<|fim_middle|>", "suffix": "b"}, model)[0]
    assert tricky.count(here) == 1 and tricky[-1] == here
    assert ids_of({"prompt": "a", "suffix": ""}, model) == [(a,)]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": ["a"] * 64, "n": 16}, "n"),
        ({"prompt": "a", "n": 17}, "n"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "echo"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": "a", "logprobs": True}, "logprobs"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": [1, 2], "suffix": "b"}, "suffix"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [100_000]}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": "a", "tools": [{}]}, "tools"),
        ({"prompt": "a", "use_beam_search": True}, "use_beam_search"),
        ({"prompt": "a", "guided_regex": "("}, "guided_regex"),
        ({}, "prompt"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        prepared(body)
    assert refused.value.param == param


def test_the_answer_can_be_constrained_by_a_grammar() -> None:
    assert sampling_of({"prompt": "a", "guided_regex": "[0-9]+"}).grammar


def test_best_of_equal_to_n_is_what_happens_anyway() -> None:
    assert sampling_of({"prompt": "a", "n": 2, "best_of": 2}).n == 2


def test_a_prompt_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ContextLengthExceeded):
        prepared({"prompt": "a" * 100})


def enqueued(redis: "Redis", max_queue: int, prompts: list[str], key: str = "") -> tuple[Store, str]:
    """Enqueue one request where `max_queue` jobs may wait; returns the store and the answer's id."""
    store = Store(redis, max_queue=max_queue)
    raw = {"model": "tiny", "prompt": prompts}
    sender = Sender("me", raw, idempotency_key=key)
    return store, submit_all(store, submissions(prepared(raw), "completion", TINY.card, sender)).job_id


def test_all_prompts_are_enqueued_or_none(redis: "Redis") -> None:
    store, answer_id = enqueued(redis, 3, ["a", "b", "c"])
    assert store.directory.num_waiting("tiny") == 3
    assert [store.jobs.get(job_id).form["id"] for job_id in job_ids(answer_id, 3)] == [answer_id] * 3  # type: ignore[union-attr]
    redis.flushall()
    with pytest.raises(Overloaded):
        enqueued(redis, 2, ["a", "b", "c"])
    assert store.directory.num_waiting("tiny") == 0


def test_an_idempotency_key_adds_the_jobs_that_a_crash_left_out(redis: "Redis") -> None:
    store, first = enqueued(redis, 9, ["a", "b"], key="once")
    store.cancel(f"{first}-1")
    redis.delete(keys.job_key(f"{first}-1"))
    _, again = enqueued(redis, 9, ["a", "b"], key="once")
    assert again == first and store.directory.num_waiting("tiny") == 2


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.sampled_from(sorted(CompletionRequest.model_fields))


@settings(max_examples=150)
@given(st.dictionaries(fields, json_values, max_size=5), st.text(max_size=20))
def test_no_body_does_more_than_be_refused(body: dict[str, Any], prompt: str) -> None:
    try:
        ready = prepared({"prompt": prompt} | body)
    except InvalidRequest as refused:
        assert refused.param
    else:
        assert all(request.sampling.max_tokens >= 1 and request.prompt_ids for request in ready.requests)


def meta(**changes: Any) -> CompletionMeta:
    return CompletionMeta(**{"id": "cmpl-1", "model": "tiny", "created": 1} | changes)
