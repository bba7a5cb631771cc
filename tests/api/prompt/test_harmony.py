"""Histories for harmony's template."""

import pytest

from api.prompt.conversation import Conversation, render
from api.prompt.harmony import with_known_effort, with_one_text
from api.prompt.special_tokens import Guard
from api.schema.chat import Message
from tests.api.harmony_model import harmony_card

CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_and_text_beside_a_call_become_one_text(name):
    message = {"role": "assistant", "content": "I look.", name: "Hm.", "tool_calls": [CALL]}
    [arranged] = with_one_text([message])
    assert arranged == {"role": "assistant", "content": "", "thinking": "Hm.\n\nI look.", "tool_calls": [CALL]}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "I look.", "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "reasoning": "Hm.", "tool_calls": [CALL]},
        {"role": "assistant", "content": "Four.", "reasoning": "Hm."},
        {"role": "user", "content": "Two and two?"},
    ],
)
def test_any_other_message_stays_as_it_is(message):
    assert with_one_text([message]) == [message]


def test_efforts_that_the_model_was_not_taught_become_the_nearest():
    assert with_known_effort({"reasoning_effort": "minimal"}) == {"reasoning_effort": "low"}
    assert with_known_effort({"reasoning_effort": "xhigh"}) == {"reasoning_effort": "high"}
    assert with_known_effort({"reasoning_effort": "medium"}) == {"reasoning_effort": "medium"}
    assert with_known_effort({}) == {}


def test_what_the_model_answered_can_be_sent_back_to_it():
    fields = {"role": "assistant", "content": "I look.", "reasoning_content": "Hm.", "tool_calls": [CALL]}
    messages = [Message(role="user", content="Go."), Message.model_validate(fields)]
    conversation = Conversation(messages, template_kwargs={"reasoning_effort": "none"})
    assert render(conversation, harmony_card(), Guard(())) == (
        "<|start|>user<|message|>Go.<|end|><|start|>assistant<|channel|>analysis<|message|>Hm.\n\nI look.<|end|>"
        '<|start|>assistant to=functions.f<|channel|>commentary json<|message|>{"x": 1}<|call|>low<|start|>assistant'
    )
