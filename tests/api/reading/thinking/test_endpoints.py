"""Every form of reasoning, as each endpoint shows it."""

import pytest

from api.chat.chunks import ChatCompletion, ChatMeta
from api.messages.chunks import MessageChunks, MessageMeta
from api.reading.choice import ParseOptions
from api.reading.thinking.known import FORMS
from api.responses.chunks import ResponseChunks, ResponsesMeta
from tests.api.events import fed, folded, log


@pytest.mark.parametrize("step", [1, 7])
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_each_endpoint_shows_reasoning_and_text_without_marks(encoder, form, step):
    marks = form.marks
    said = f"{marks.opening}\nHm.\n{marks.closing}{marks.answer_opening}Four.{marks.answer_closing}"
    events, reading = log(said, step=step), ParseOptions(reasoning_form=form.name)

    chat = folded(ChatCompletion(ChatMeta("chatcmpl-1", "tiny", 5, reading=reading), encoder), events)
    message = chat["choices"][0]["message"]
    assert (message["reasoning_content"], message["reasoning"], message["content"]) == ("Hm.", "Hm.", "Four.")
    num_reasoning = chat["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert 0 < num_reasoning < chat["usage"]["completion_tokens"]

    meta = ResponsesMeta(
        "resp_1", "tiny", 5, store=True, background=False, echo={}, input=[], context=[], reading=reading
    )
    response = fed(ResponseChunks(meta, encoder), events)[-1]["response"]
    assert [item["content"][0]["text"] for item in response["output"]] == ["Hm.", "Four."]
    assert response["usage"]["output_tokens_details"]["reasoning_tokens"] == num_reasoning

    anthropic = MessageMeta("msg_1", "tiny", 5, num_prompt_tokens=7, stop=[], reading=reading)
    thinking, text = folded(MessageChunks(anthropic, encoder), events)["content"]
    assert (thinking["thinking"], text["text"]) == ("Hm.", "Four.")


def test_a_stop_string_inside_the_reasoning_ends_the_answer_there(encoder):
    reading = ParseOptions(reasoning_form="harmony", stop_token_ids=(258,))
    events = log("<|channel|>analysis<|message|>One, two,", finish_reason="stop")
    chat = folded(ChatCompletion(ChatMeta("chatcmpl-1", "tiny", 5, reading=reading), encoder), events)
    [choice] = chat["choices"]
    assert choice["finish_reason"] == "stop"
    assert (choice["message"]["reasoning"], choice["message"]["content"]) == ("One, two,", "")
