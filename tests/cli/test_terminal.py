"""Plain text in pipes, rendered markdown on a terminal."""

import os
import subprocess
import sys

from cli.serve import ROOT
from cli.terminal import AnswerView, show_table


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
