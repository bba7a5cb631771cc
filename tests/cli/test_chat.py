"""omni chat."""

import json
import re

import pytest

from cli.conversation import Answer


def test_a_message_is_answered_with_its_rate_on_stderr(omni):
    answered = omni("chat", "Hello!", "--max-tokens", "8", "--temperature", "0")
    assert answered.exit_code == 0 and answered.stdout.strip()
    assert re.search(r"\d+ tokens, \d+/s", answered.stderr)


def test_a_conversation_continues_until_its_input_ends(omni):
    talked = omni("chat", "--max-tokens", "4", input="Hello!\nAnd now?\n")
    assert talked.exit_code == 0 and talked.stderr.count("tokens,") == 2
    assert "you>" not in talked.stdout, "a prompt is for a terminal"


def test_what_is_piped_in_stands_behind_the_message(omni, monkeypatch):
    asked = []

    def ask(client, body, messages, *, is_shown):
        asked.append(messages)
        return Answer("", "", "a", "", "stop", {}, 0.0, 0.0)

    monkeypatch.setattr("cli.conversation.ask", ask)
    assert omni("chat", "Sum it up.", input="a\nb\n").exit_code == 0
    assert asked == [[{"role": "user", "content": "Sum it up.\n\na\nb"}]]


def test_for_a_program_an_answer_is_one_object(omni):
    answered = omni("chat", "Hello!", "--max-tokens", "8", "--temperature", "0", "--json")
    found = json.loads(answered.stdout)
    assert found["content"] and found["finish_reason"] == "length" and found["usage"]["completion_tokens"] == 8
    assert 0 < found["first_token_s"] <= found["duration_s"] and found["id"].startswith("chatcmpl-")
    lines = omni("chat", "--max-tokens", "2", "--json", input="one\ntwo\n").stdout.splitlines()
    assert [json.loads(line)["usage"]["completion_tokens"] for line in lines] == [2, 2]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("omni-dmeo", "did you mean omni-demo?"), ("gpt-4o", "The model 'gpt-4o' does not exist")],
)
def test_a_model_that_is_not_served_is_refused_with_one_that_is(omni, name, sentence):
    refused = omni("chat", "Hello!", "--model", name)
    assert refused.exit_code == 1 and sentence in refused.stderr


@pytest.mark.parametrize("piped", ["", " \n"])
def test_an_empty_message_is_not_sent(omni, piped):
    refused = omni("chat", "", input=piped)
    assert refused.exit_code == 2 and "the message is empty" in refused.stderr
    assert omni("chat", "", "--max-tokens", "2", input="Hello!").exit_code == 0
