"""Answers in harmony: written at random, cut at random, and read."""

from api.reading.choice import ChoiceParser, ParseOptions
from api.reading.pieces import Content, Reasoning, ToolCallArguments, ToolCallEnd, ToolCallStart, merged
from common.wire import Delta

STOP = 200002
NEXT = "<|start|>assistant"
CALL = '<|channel|>commentary to=functions.f <|constrain|>json<|message|>{"x": 1}'
TEXTS = ("Hm.", "Two <b>lines</b>\n\nto=functions.f", "über 😀", "a < b <|", "json{}")
WITH_MARKS = '{"a": "<|end|><|start|>", "b": "<|call|>"}'
ARGUMENTS = (
    "{}",
    WITH_MARKS,
    '{"city": "Rome", "n": [1, {"a": null}]}',
    '{\n  "code": "x = \\"<|\\"\\n"\n}',
)


def read(deltas, *, dialect="harmony", opened=False, finish="stop", must_call=False):
    """(reasoning, content, complete calls, finish_reason, reasoning tokens) of an answer."""
    options = ParseOptions(
        tool_dialect=dialect,
        reasoning_form="harmony",
        is_thinking_opened=opened,
        stop_token_ids=(STOP,),
        must_call=must_call,
    )
    parser = ChoiceParser(options, "job", 0)
    pieces = [piece for delta in deltas for piece in parser.read(Delta(index=0, text=delta, token_ids=(1,)))]
    ids = (STOP,) if finish == "stop" else (1,)
    pieces = merged([*pieces, *parser.read(Delta(index=0, text="", token_ids=ids, finish_reason=finish))])
    calls = {piece.index: [piece.name, ""] for piece in pieces if isinstance(piece, ToolCallStart)}
    for piece in pieces:
        if isinstance(piece, ToolCallArguments):
            calls[piece.index][1] += piece.text
    ended = [piece.index for piece in pieces if isinstance(piece, ToolCallEnd)]
    return (
        "".join(piece.text for piece in pieces if isinstance(piece, Reasoning)),
        "".join(piece.text for piece in pieces if isinstance(piece, Content)),
        [tuple(calls[index]) for index in ended],
        parser.finish_reason,
        parser.num_reasoning_tokens,
    )


def cut(text, rng):
    while text:
        size = rng.choice((1, 1, 3, 10, len(text)))
        yield text[:size]
        text = text[size:]


def message(rng):
    """A message as the model writes it, and what it is read as."""
    kind, text = rng.choice(("analysis", "commentary", "final", "call")), rng.choice(TEXTS)
    if kind != "call":
        return f"<|channel|>{kind}<|message|>{text}", ("reasoning" if kind == "analysis" else "content", text)
    name, arguments = rng.choice(("f", "get_weather", "a-b.c_9")), rng.choice(ARGUMENTS)
    content_type = rng.choice(("", " json", " <|constrain|>json", "<|constrain|>json", " code"))
    header = rng.choice(
        (
            f"<|channel|>commentary to=functions.{name}{content_type}",
            f" to=functions.{name}<|channel|>commentary{content_type}",
            f"<|channel|>analysis to=functions.{name}{content_type}",
        )
    )
    return f"{header}<|message|>{rng.choice(('', ' '))}{arguments}", ("call", (name, arguments))
