"""`service_tier`: what it asks for, who may ask, and what the answer says."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.chat.chunks import CHAT, ChatMeta
from api.chat.prepare import prepare as prepare_chat
from api.completions.chunks import COMPLETION
from api.completions.prepare import prepare as prepare_text
from api.gate.auth import Caller
from api.jobs.endpoint import Endpoint
from api.messages.chunks import MESSAGE
from api.messages.prepare import prepare as prepare_message
from api.request.submission import Prepared, Sender, submissions
from api.responses.chunks import RESPONSE
from api.responses.history import turn_of
from api.responses.prepare import prepare as prepare_response
from api.schema.chat import ChatRequest
from api.schema.completions import CompletionRequest
from api.schema.messages import MessagesRequest
from api.schema.parse import parse
from api.schema.responses import ResponsesRequest
from common.errors import InvalidRequest
from common.wire import TIERS, Delta, Finished
from tests.api.calls import call_of

SAYS_HI = {"messages": [{"role": "user", "content": "Hi"}]}
KINDS: dict[str, tuple[Any, dict[str, Any], Any, Endpoint[Any]]] = {
    "chat": (ChatRequest, SAYS_HI, prepare_chat, CHAT),
    "completion": (CompletionRequest, {"prompt": "Hi"}, prepare_text, COMPLETION),
    "response": (ResponsesRequest, {"input": "Hi"}, lambda call: prepare_response(call, turn_of(call)), RESPONSE),
    "message": (MessagesRequest, SAYS_HI | {"max_tokens": 5}, prepare_message, MESSAGE),
}


def shown(encoder: Any, kind: str, **fields: Any) -> list[Any]:
    """The tier in each chunk that has one, and in the body, as any process makes them from what is stored."""
    schema, body, prepare, endpoint = KINDS[kind]
    prepared: Prepared[Any] = prepare(call_of(schema, {"model": "tiny"} | body | fields, encoder))
    meta = endpoint.meta.from_forms(prepared.meta.forms())
    found = []
    assert endpoint.chunks is not None
    chunks, completion = endpoint.chunks(meta, encoder), endpoint.completion(meta, encoder)
    events = [Delta(0, (72,), "x", finish_reason="stop"), Finished(2, 1)]
    streamed = [*chunks.opening(), *(chunk for event in events for chunk in chunks.feed(event))]
    for event in events:
        completion.feed(event)
    for part in [*streamed, completion.body()]:
        inner = part.get("response") or part.get("message") or part
        found += [(inner if kind != "message" else inner.get("usage", {})).get("service_tier")]
    return [tier for tier in found if tier is not None]


@pytest.mark.parametrize("kind", ["chat", "completion"])
@pytest.mark.parametrize(("asked", "used"), [("auto", "default"), ("default", "default"), ("flex", "flex")])
def test_the_tier_that_was_used_is_in_the_body_and_in_every_chunk(encoder, kind, asked, used):
    found = shown(encoder, kind, service_tier=asked)
    assert set(found) == {used} and len(found) >= 2


@pytest.mark.parametrize("kind", ["chat", "completion"])
def test_an_answer_to_a_request_without_the_field_has_none(encoder, kind):
    assert shown(encoder, kind) == [] == shown(encoder, kind, service_tier=None)


@pytest.mark.parametrize(("asked", "used"), [(None, "default"), ("auto", "default"), ("flex", "flex")])
def test_a_response_always_names_its_tier(encoder, asked, used):
    found = shown(encoder, "response", service_tier=asked)
    assert set(found) == {used} and len(found) >= 3


@pytest.mark.parametrize("asked", [None, "auto", "standard_only"])
def test_a_message_s_usage_names_anthropic_s_tier(encoder, asked):
    assert shown(encoder, "message", service_tier=asked) == ["standard", "standard"]


@pytest.mark.parametrize(("kind", "wrong"), [(kind, "scale") for kind in KINDS] + [("message", "flex"), ("chat", 1)])
def test_another_value_is_refused_and_the_field_named(kind, wrong):
    schema, body, _, _ = KINDS[kind]
    with pytest.raises(InvalidRequest) as refused:
        parse(schema, {"model": "tiny", "service_tier": wrong} | body)
    assert refused.value.param == "service_tier"


def test_a_key_without_the_right_is_told_what_it_may_use_and_who_can_allow_more(encoder):
    with pytest.raises(InvalidRequest, match=r"default or flex.*--tiers") as refused:
        shown(encoder, "chat", service_tier="priority")
    assert refused.value.param == "service_tier"


@given(st.lists(st.sampled_from(TIERS), min_size=1, unique=True), st.sampled_from([None, "auto", *TIERS, "fast"]))
def test_no_key_gets_a_tier_that_it_may_not_use(tiers, asked):
    caller = Caller("me", is_admin=False, tiers=tuple(tiers))
    wanted = "priority" if asked == "fast" else asked
    if wanted in (None, "auto"):
        assert caller.tier(asked) == ("default" if "default" in tiers else tiers[0])
    elif wanted in tiers:
        assert caller.tier(asked) == wanted
    else:
        with pytest.raises(InvalidRequest):
            caller.tier(asked)


@pytest.mark.parametrize("asked", [None, "auto", "default", "priority", "flex"])
def test_a_line_of_a_batch_is_flex_whatever_its_body_says(asked):
    assert Caller("me", is_admin=False, batch="batch_1").tier(asked) == "flex"


@pytest.mark.parametrize("tier", TIERS)
def test_the_job_has_the_tier_and_its_worker_knows_a_flex_one(encoder, tier):
    raw = {"model": "tiny", **SAYS_HI}
    prepared = prepare_chat(call_of(ChatRequest, raw, encoder))
    [job] = submissions(prepared, "chat", encoder.card, Sender("me", raw, tier=tier))
    assert (job.tier, job.request.is_flex) == (tier, tier == "flex")


def test_what_is_stored_for_a_request_without_a_tier_is_what_other_versions_know():
    assert "service_tier" not in ChatMeta("chatcmpl-1", "tiny", 5).forms()[0]
