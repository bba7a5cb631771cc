"""omni chat."""

import re


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
    monkeypatch.setattr("cli.conversation.ask", lambda client, body, messages: asked.append(messages) or "")
    assert omni("chat", "Sum it up.", input="a\nb\n").exit_code == 0
    assert asked == [[{"role": "user", "content": "Sum it up.\n\na\nb"}]]
