"""The prompt and the model card tell if an answer begins with thinking."""

import pytest

from api.prompt.conversation import Conversation, thinking_of
from tests.api.conftest import card, chat_tokenizer


@pytest.mark.parametrize(
    ("rendered", "template", "thinking"),
    [
        ("<|assistant|>", "... <think> ...", "optional"),
        ("<|assistant|><think>\n", "... <think> ...", "opened"),
        ("<|assistant|><think>\n\n</think>\n\n", "... <think> ...", "none"),
        ("<｜Assistant｜></think>", None, "none"),
        ("<|assistant|>", "no such thing", "none"),
    ],
)
def test_the_prompt_and_the_template_tell_whether_an_answer_begins_with_thinking(rendered, template, thinking):
    model = card(chat_tokenizer(), chat_template=template)
    assert thinking_of(rendered, Conversation(messages=()), model) == thinking


@pytest.mark.parametrize(
    ("rendered", "thinking"),
    [
        ("<|assistant|>Four", "none"),
        ("<|assistant|><think>Hm", "opened"),
        ("<|assistant|><think>Hm</think>Four", "none"),
    ],
)
def test_a_continued_answer_thinks_if_its_last_block_is_open(rendered, thinking):
    model = card(chat_tokenizer(), chat_template="... <think> ...")
    assert thinking_of(rendered, Conversation(messages=(), continue_final=True), model) == thinking


def test_deepseek_may_think_without_a_chat_template():
    model = card(chat_tokenizer(), chat_template=None, architecture="deepseek_v32")
    assert thinking_of("<｜Assistant｜>", Conversation(messages=()), model) == "optional"
