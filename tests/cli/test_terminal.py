"""Plain text in pipes, rendered markdown on a terminal."""

import fcntl
import os
import struct
import subprocess
import sys
import termios

from cli.serve import ROOT
from cli.terminal import MOST_LISTED, AnswerView, note_more, show_table


def test_a_table_in_a_pipe_is_aligned_and_not_cut(capsys):
    show_table(("a", "long"), [("x" * 90, None), (1, "[y]")])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [f"{'a':90}  long", "x" * 90, f"{'1':90}  [y]"]


def test_an_answer_in_a_pipe_is_its_text(capsys):
    with AnswerView() as view:
        for piece in ("**bold**", " [red] ", "text"):
            view.add(piece)
    assert capsys.readouterr().out == "**bold** [red] text\n" and view.text == "**bold** [red] text"


def test_a_pipe_gets_tabs_and_line_ends_unchanged(capsys):
    with AnswerView() as view:
        view.add_thought("1\t2\n")
        view.add("all:\r\n\tcc a.c\t# [b]")
    assert capsys.readouterr().out == "1\t2\nall:\r\n\tcc a.c\t# [b]\n"


def test_an_answer_that_never_arrived_leaves_no_line(capsys):
    with AnswerView():
        pass
    assert capsys.readouterr().out == ""


def test_an_answer_on_a_terminal_is_rendered_markdown():
    screen, terminal = os.openpty()
    code = "from cli.terminal import AnswerView\nwith AnswerView() as view:\n    view.add('**bold** text')"
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, stdout=terminal, env=os.environ | {"TERM": "xterm"}, check=True
    )
    os.close(terminal)
    shown = os.read(screen, 65536).decode()
    os.close(screen)
    assert "\x1b[1mbold\x1b[0m text" in shown


def test_on_a_terminal_prose_is_wrapped_between_words_and_keys_do_not_show():
    """Control: with `soft_wrap=True` the terminal breaks the line in a word."""
    screen, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 30, 0, 0))
    code = (
        "from cli.terminal import AnswerView, without_echo\nimport sys\n"
        "with without_echo():\n    with AnswerView() as view:\n        view.add('wrapped between words ' * 3)\n"
        "    print(sys.stdin.readline())"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=terminal, stdout=terminal, env=environment | {"TERM": "xterm"}
    )
    shown = b""
    while b"words" not in shown.rpartition(b"\x1b[2K")[2]:
        shown += os.read(screen, 65536)
    os.write(screen, b"typed\n")
    process.wait(20)
    shown += os.read(screen, 65536)
    os.close(terminal)
    os.close(screen)
    lines = [line.strip() for line in shown.decode().rpartition("\x1b[2K")[2].splitlines()]
    assert lines[:3] == ["wrapped between words wrapped", "between words wrapped between", "words"]
    assert shown.count(b"typed") == 1, "printed once, not echoed"


def test_a_list_that_is_cut_names_a_limit_that_may_be_given(capsys):
    for limit, advice in ((100, "--limit 1000 "), (50_000, f"--limit {MOST_LISTED} "), (MOST_LISTED, "")):
        note_more(limit, has_more=True)
        told = capsys.readouterr().err
        assert f"more than the newest {limit}" in told and (advice in told if advice else "--limit" not in told)
