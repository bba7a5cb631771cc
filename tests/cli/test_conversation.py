"""Messages with files, /commands, and the line editor of `omni chat`, without a service."""

import json
from types import SimpleNamespace

import click
import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput

from cli.attachments import content_of
from cli.chat import converse
from cli.client import StoppedWhileAway
from cli.conversation import COMMANDS, Conversation
from cli.line_editor import MessageCompleter, line_editor


class Answering:
    """A client whose answers count up; it keeps what it was asked."""

    url = "http://x"

    def __init__(self):
        self.bodies = []
        self.fails = False

    def json(self, *_):
        return {
            "data": [{"id": "a", "task": "generate"}, {"id": "b", "task": "generate"}, {"id": "e", "task": "embed"}]
        }

    def chat(self, body):
        self.bodies.append(body)
        if self.fails:
            raise click.ClickException("429: The queue is full.")
        yield {"choices": [{"delta": {"content": f"answer {len(self.bodies)}"}}]}


@pytest.fixture
def talk():
    return Conversation(Answering(), {"model": "a"}, "Be brief.")


def roles(talk):
    return [message["role"] for message in talk.client.bodies[-1]["messages"]]


def test_a_conversation_grows_and_is_answered_again(talk):
    talk.say("one")
    talk.say("two")
    assert roles(talk) == ["system", "user", "assistant", "user"]
    talk.command("/retry")
    assert roles(talk) == ["system", "user", "assistant", "user"]
    assert [message["content"] for message in talk.messages] == ["one", "answer 1", "two", "answer 3"]
    talk.command("/clear")
    assert talk.messages == []
    with pytest.raises(click.ClickException, match="no message"):
        talk.command("/retry")


@pytest.mark.parametrize("name", ["~nobody-of-this-name", "~nobody-of-this-name/a.txt", "a/" + "x" * 300])
def test_a_path_that_cannot_be_one_is_refused_and_the_conversation_goes_on(talk, name):
    talk.say("one")
    with pytest.raises(click.ClickException, match="no home folder|no file that you may read"):
        talk.say(f"what is @{name}")
    with pytest.raises(click.ClickException, match="no home folder|cannot be written"):
        talk.command(f"/save {name}")
    assert len(talk.messages) == 2


def test_an_image_that_cannot_be_read_is_refused(talk, monkeypatch, tmp_path):
    def refuse(_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").touch()
    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(click.ClickException, match="cannot be read: Permission denied"):
        talk.say(f"@{tmp_path}/a.png")


def test_ctrl_c_while_the_service_is_away_says_what_becomes_of_the_job(talk, monkeypatch, capsys):
    def chat(_):
        yield {"choices": [{"delta": {"content": "half an"}}]}
        raise StoppedWhileAway("chatcmpl-1")

    monkeypatch.setattr(talk.client, "chat", chat)
    talk.say("one")
    assert talk.is_stopped and talk.messages[-1]["content"] == "half an"
    said = " ".join(capsys.readouterr().err.split())
    assert "ends the job within 30 s of its return" in said and "omni cancel chatcmpl-1" in said


def test_system_prompt_and_model_are_changed(talk):
    talk.command("/system In French.")
    talk.command("/model b")
    talk.say("one")
    assert talk.client.bodies[-1]["model"] == "b"
    assert talk.client.bodies[-1]["messages"][0]["content"] == "In French."
    with pytest.raises(click.ClickException, match="no model 'e'; there are a, b"):
        talk.command("/model e")


@pytest.mark.parametrize(("name", "begin"), [("talk.md", "## system\n\nBe brief.\n"), ("talk.json", "[\n")])
def test_a_conversation_is_saved_once(talk, tmp_path, name, begin):
    talk.say("one")
    path = tmp_path / name
    talk.command(f"/save {path}")
    assert path.read_text().startswith(begin) and "answer 1" in path.read_text()
    with pytest.raises(click.ClickException, match="exists already"):
        talk.command(f"/save {path}")


def test_an_unknown_command_has_a_suggestion(talk):
    with pytest.raises(click.ClickException, match="/sytem is no command; did you mean /system?"):
        talk.command("/sytem x")


def test_a_refusal_on_a_terminal_leaves_the_conversation_as_it_was(talk, capsys):
    talk.client.fails = True
    lines = iter(["one", "/exit"])
    converse(talk, lambda: next(lines), is_terminal=True)
    assert talk.messages == [] and "429: The queue is full." in capsys.readouterr().err
    with pytest.raises(click.ClickException):
        converse(talk, lambda: "one", is_terminal=False)


def test_files_go_along(tmp_path):
    (tmp_path / "a.txt").write_text("inside")
    (tmp_path / "b.png").write_bytes(b"png")
    assert content_of(f"see @{tmp_path}/a.txt") == f"see @{tmp_path}/a.txt\n\n{tmp_path}/a.txt:\n```\ninside\n```"
    (tmp_path / "two words.txt").write_text("both")
    assert content_of(f'see @"{tmp_path}/two words.txt"').endswith(f"\n\n{tmp_path}/two words.txt:\n```\nboth\n```")
    text, image = content_of(f"see @{tmp_path}/b.png")
    assert text["type"] == "text" and image["image_url"]["url"] == "data:image/png;base64,cG5n"


@pytest.mark.parametrize("text", ["to @anna", "me@x.org", "plain"])
def test_an_at_that_is_no_path_is_text(text):
    assert content_of(text) == text
    assert content_of("\\@a.txt") == "@a.txt"


def test_a_file_that_cannot_be_sent_is_refused(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\xff\xfe")
    (tmp_path / "x.txt").write_bytes(bytes(2**20 + 1))
    for name, said in (("none.txt", "is no file"), ("x.bin", "not UTF-8"), ("x.txt", "larger than 1 MiB")):
        with pytest.raises(click.ClickException, match=said):
            content_of(f"@{tmp_path}/{name}")


@pytest.fixture
def typed(tmp_path, monkeypatch):
    """What the editor makes of these keys, one message after another; the history lasts."""
    monkeypatch.setattr("cli.line_editor.child_environment", lambda: {"XDG_STATE_HOME": str(tmp_path)})

    def messages(keys, number=1):
        with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
            read = line_editor(COMMANDS, lambda: ["a"])
            keyboard.send_text(keys)
            return [read() for _ in range(number)]

    return SimpleNamespace(messages=messages, history=tmp_path / "omni" / "chat_history")


def test_a_message_may_have_several_lines(typed):
    assert typed.messages("one\x1b\rtwo\r") == ["one\ntwo"]
    assert typed.messages("typed ahead\n") == ["typed ahead"], "while the terminal was not yet raw"
    assert typed.messages("\x1b[200~one\ntwo\x1b[201~\r") == ["one\ntwo"], "pasted"


def test_up_recalls_the_last_message_also_of_an_earlier_chat(typed):
    assert typed.messages("first\r") == ["first"]
    assert typed.history.stat().st_mode & 0o777 == 0o600
    assert typed.messages("\x1b[A\r") == ["first"]


def test_ctrl_d_ends_it(typed):
    with pytest.raises(EOFError):
        typed.messages("\x04")


def test_commands_models_and_paths_are_completed(tmp_path):
    (tmp_path / "notes.txt").touch()
    completer = MessageCompleter(COMMANDS, lambda: ["alpha", "beta"])

    def completed(text):
        return [found.text for found in completer.get_completions(Document(text), CompleteEvent())]

    assert completed("/sy") == ["/system"] and completed("/model b") == ["beta"]
    assert completed(f"see @{tmp_path}/no") == ["tes.txt"] and completed("plain") == []
    (tmp_path / "two words.md").touch()
    assert completed(f"see @{tmp_path}/tw") == [f'"{tmp_path}/two words.md']
    assert completed(f'see @"{tmp_path}/two w') == ["ords.md"]


def test_saved_messages_can_be_read_back(talk, tmp_path):
    talk.say("one")
    talk.command(f"/save {tmp_path}/talk.json")
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert [message["role"] for message in saved] == ["system", "user", "assistant"]
