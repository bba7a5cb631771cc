"""Chat templates of real models: rendered as transformers does, no conversation is refused, and calls are read back.

Needs no service: it reads the templates that fetch_templates.py unpacked. `real_templates.py NAME ...` checks those
whose names contain one of these words. template_forms.py says what is expected of each.
"""

import json
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checks import run

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT))

from jinja2 import TemplateError  # noqa: E402  (the repository is no installed package)
from template_forms import FORMS, Form  # noqa: E402
from template_sessions import check_sessions  # noqa: E402
from template_turns import TOOLS, TURNS, CannotCut, Turn, spoken  # noqa: E402
from transformers.utils.chat_template_utils import render_jinja_template  # noqa: E402

from api.chat.prepare import parameter_kinds  # noqa: E402
from api.prompt.conversation import thinking_of  # noqa: E402
from api.prompt.template_traits import chat_template_of  # noqa: E402
from api.prompt.templates import render_template  # noqa: E402
from api.reading.choice import ChoiceParser, ParseOptions  # noqa: E402
from api.reading.dialects.known import dialect_named  # noqa: E402
from api.reading.pieces import Content, Piece, Reasoning, ToolCallArguments, ToolCallEnd, ToolCallStart  # noqa: E402
from api.reading.thinking.known import form_for  # noqa: E402
from common.errors import InvalidRequest  # noqa: E402
from common.wire import Delta, ModelCard  # noqa: E402

FOLDER = Path(os.environ.get("OMNI_TEMPLATES", ROOT / ".venv-conformance" / "templates"))
NUM_CUTTINGS = 12
STOP = 0  # a token id
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
CALL = {"id": "abcdef001", "type": "function", "function": {"name": "now", "arguments": {"zone": "<ä> & 'b'"}}}
SAID = {"role": "assistant", "content": "It is noon.", "reasoning_content": "I add."}
USER, SYSTEM = {"role": "user", "content": "  When? <b>&</b> 憂鬱 🇫🇷 "}, {"role": "system", "content": "Be brief."}
ASKED = [SYSTEM, USER]
RESULT = {"role": "tool", "name": "now", "tool_call_id": "abcdef001", "content": '{"now": "<noon>"}'}
PARTS = [{"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}]
OFFERED = [tool.model_dump(exclude_none=True) for tool in TOOLS]
CALLED = [*ASKED, {"role": "assistant", "content": "", "reasoning_content": "I look.", "tool_calls": [CALL]}, RESULT]
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, Any]]] = {
    "plain": ([USER], [], {}),
    "a system message and turns": ([*ASKED, SAID, USER], [], {}),
    "tools": (ASKED, OFFERED, {}),
    "calls and results": (CALLED, OFFERED, {}),
    "thinking on": ([*CALLED, SAID, USER], OFFERED, {"enable_thinking": True, "thinking": True}),
    "thinking off": ([USER, SAID, USER], [], {"enable_thinking": False, "thinking": False}),
    "effort": (ASKED, OFFERED, {"reasoning_effort": "high"}),
    "parts": (PARTS, [], {}),
}


@dataclass(slots=True)
class Rounds:
    """Parsed answers, by dialect."""

    of: Counter[str] = field(default_factory=Counter)


def check_rendering(source: str) -> None:
    for name, (messages, tools, variables) in CONVERSATIONS.items():
        for prompts in (True, False):
            variables = TOKENS | variables
            try:
                theirs = render_jinja_template(
                    conversations=[messages],
                    chat_template=source,
                    tools=tools or None,
                    add_generation_prompt=prompts,
                    **variables,
                )[0][0]
            except Exception as refused:  # a template's own refusal, or what Python says of a value it did not expect
                theirs = type(refused).__name__
            try:
                ours = render_template(
                    source, messages, tools, add_generation_prompt=prompts, continue_final=False, variables=variables
                )
            except (TemplateError, ValueError, TypeError, LookupError, AttributeError) as refused:
                ours = type(refused).__name__
            assert ours == theirs, f"{name}: {ours!r} for {theirs!r}"


def check_reading(source: str, form: Form, rounds: Rounds) -> None:
    card = card_of(source)
    template = chat_template_of(card, has_tools=True)
    assert template
    found = template.dialect
    assert found.name == form.dialect, f"its calls are read as {found.name}, and not as {form.dialect}"
    for name, turn in TURNS.items():
        reason = form.cannot.get(name, form.cannot.get("*", ""))
        try:
            before, text = spoken(card, turn, short_ids=found.has_short_ids)
        except (InvalidRequest, CannotCut) as refused:
            assert reason, f"{name}: {refused}"
            continue
        faults = list(faults_of(card, form, turn, before, text, rounds))
        assert bool(faults) == bool(reason), f"{name}: {faults[0] if faults else f'no longer true: {reason}'}"


def faults_of(card: ModelCard, form: Form, turn: Turn, before: str, text: str, rounds: Rounds) -> Iterator[str]:
    thought = form_for(card.chat_template, card.architecture)
    options = ParseOptions(
        tool_dialect=form.dialect,
        reasoning_form=thought.name,
        is_thinking_opened=thinking_of(before, None, card, thought) == "opened",
        stop_token_ids=(STOP,),
        parameter_kinds=parameter_kinds(TOOLS, dialect_named(form.dialect)),
    )
    for cutting in cuttings(text):
        rounds.of[form.dialect] += 1
        parser = ChoiceParser(options, "job", 0)
        pieces = [piece for part in cutting for piece in parser.read(Delta(index=0, text=part, token_ids=(1,)))]
        pieces += parser.read(Delta(index=0, text="", token_ids=(STOP,), finish_reason="stop"))
        if fault := fault_of(pieces, turn, form):
            yield f"{fault}, of {text!r}"


def cuttings(text: str) -> Iterator[list[str]]:
    """The whole, one character at a time, and at random."""
    yield [text]
    yield list(text)
    drawn = random.Random(17)
    for _ in range(NUM_CUTTINGS):
        longest, at, cutting = drawn.choice((2, 5, 20)), 0, []
        while at < len(text):
            length = drawn.randint(1, longest)
            cutting.append(text[at : at + length])
            at += length
        yield cutting


def fault_of(pieces: list[Piece], turn: Turn, form: Form) -> str:
    """What was read otherwise than it was said; '' if nothing."""
    calls = [(name, json.loads(arguments)) for name, arguments in calls_of(pieces)]
    if json.dumps(calls, sort_keys=True) != json.dumps(turn.calls, sort_keys=True):
        return f"the calls are {calls} for {list(turn.calls)}"
    content = "".join(piece.text for piece in pieces if isinstance(piece, Content)).strip()
    reasoning = "".join(piece.text for piece in pieces if isinstance(piece, Reasoning)).strip()
    if turn.reasoning and form.reasoning and reasoning != turn.reasoning:
        return f"the reasoning is {reasoning!r}"
    if content != turn.text and not (turn.reasoning and not form.reasoning):
        return f"the content is {content!r} for {turn.text!r}"
    return ""


def calls_of(pieces: list[Piece]) -> Iterator[tuple[str, str]]:
    """Names and arguments of the calls that are complete."""
    for start in (piece for piece in pieces if isinstance(piece, ToolCallStart)):
        if ToolCallEnd(start.index) in pieces:
            mine = [piece for piece in pieces if isinstance(piece, ToolCallArguments) and piece.index == start.index]
            yield start.name, "".join(piece.text for piece in mine)


def card_of(source: str) -> ModelCard:
    return ModelCard(
        queue="real",
        names=("real",),
        root="real",
        revision="1",
        architecture="",
        max_model_len=1,
        vocab_size=1,
        created=0,
        tokenizer="",
        chat_template=source,
        special_tokens=TOKENS,
    )


def checks_of(path: Path, rounds: Rounds) -> list[Callable[[], None]]:
    source = path.read_text()

    def rendering() -> None:
        check_rendering(source)

    def reading() -> None:
        check_reading(source, FORMS[path.stem], rounds)

    def sessions() -> None:
        check_sessions(path.stem, card_of(source))

    rendering.__name__ = f"{path.stem}: rendered as transformers does"
    reading.__name__ = f"{path.stem}: what it writes is read back"
    sessions.__name__ = f"{path.stem}: nothing that agents send is refused or lost"
    return [rendering, reading, sessions]


def main(chosen: list[str]) -> None:
    paths = [path for path in sorted(FOLDER.glob("*.jinja")) if not chosen or any(word in path.stem for word in chosen)]
    rounds = Rounds()

    def every_template_has_a_row() -> None:
        assert chosen or {path.stem for path in paths} == set(FORMS), {path.stem for path in paths} ^ set(FORMS)

    def sum_up() -> None:
        for name, number in sorted(rounds.of.items()):
            print(f"     {name}: {number} answers read")

    run(every_template_has_a_row, *(check for path in paths for check in checks_of(path, rounds)), sum_up)


main(sys.argv[1:])
