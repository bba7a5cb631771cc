"""Requests to models of every form of reasoning: what is enforced after the reasoning is what is read."""

import json
from random import Random

import pytest
import torch
from tokenizers import AddedToken, Tokenizer

from api.prompt.encoder import PromptEncoder
from api.reading.choice import ChoiceParser
from api.reading.pieces import Content, Reasoning, ToolCallArguments, ToolCallStart
from api.reading.thinking.known import FORMS, GIGACHAT
from common.grammar.answer import Grammar
from common.wire import Delta
from tests.api.cards import SPECIAL, bytes_tokenizer
from tests.api.chat_requests import JSON_SCHEMA, STRICT, prepared
from tests.api.conftest import CHATML, card
from tests.grammars import allows
from worker.sampling.bitmask import bitmask_words
from worker.sampling.grammar import GrammarCompiler

SEEN = {  # what a template has of its form, where this is not its marks
    "kimi_k3": "'response'",
    "hy3": "<think{}>",
    "solar": "<|begin|>assistant<|think|>",
    "think_response": "<response></response>",
    "kimi_k2": "<|tool_calls_section_begin|>",
    "gigachat": "<|role_sep|><|message_sep|>",
    "harmony": "<|channel|>analysis<|message|>",
}
OWN = [form for form in FORMS if not form.has_channels and not form.is_implied and form.name != "muse"]
END = 258
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 5}}\n</tool_call>'
FORMAT = {"response_format": JSON_SCHEMA}
FORCED = {"tools": [STRICT], "tool_choice": "required", "parallel_tool_calls": False}


def encoder_for(form, *, special):
    """For a model whose template has the form's marks and writes calls as Hermes does; `special`: marks are tokens."""
    template = "{# " + " ".join((*form.all_marks, SEEN.get(form.name, ""))) + " #}" + CHATML
    tokenizer = bytes_tokenizer(*SPECIAL)
    words = ("<tool_call>", "</tool_call>", *form.all_marks) if special else ()
    tokenizer.add_tokens([AddedToken(mark, special=special, normalized=False) for mark in dict.fromkeys(words)])
    return PromptEncoder(card(tokenizer, chat_template=template))


def walked(encoder, grammar, rng, most=500):
    model = encoder.card
    state = GrammarCompiler(Tokenizer.from_str(model.tokenizer), [END], model.vocab_size).compile(grammar)
    row = torch.zeros(bitmask_words(model.vocab_size), dtype=torch.int32)
    ids = []
    while len(ids) < most:
        state.fill_mask(row)
        words = row.tolist()
        allowed = [token for token in range(model.vocab_size) if words[token >> 5] >> (token & 31) & 1]
        marks = [token for token in allowed if token > END]
        if END in allowed and (len(allowed) == 1 or rng.random() < 0.5):
            return ids
        allowed = [token for token in allowed if token != END]
        ids.append(rng.choice(marks if marks and rng.random() < 0.2 else allowed))
        state.accept(ids[-1:])
    return None


def read(chat, text, rng):
    parser, pieces = ChoiceParser(chat.options, "job", 0), []
    while text:
        size = rng.choice((1, 5, len(text)))
        pieces += parser.read(Delta(0, (1,), text[:size]))
        text = text[size:]
    return pieces + parser.read(Delta(0, (END,), "", finish_reason="stop"))


def check(pieces, said, is_call):
    texts = [piece.text for piece in pieces if isinstance(piece, Content | ToolCallArguments)]
    assert json.loads("".join(texts)).keys() == {"a"}, said
    assert any(isinstance(piece, ToolCallStart) for piece in pieces) == is_call, said


@pytest.mark.parametrize("fields", [FORMAT, FORCED], ids=["format", "forced"])
@pytest.mark.parametrize("form", OWN, ids=lambda form: form.name)
def test_what_is_enforced_after_reasoning_is_what_is_read(form, fields):
    encoder = encoder_for(form, special=True)
    assert encoder.reasoning_form is form
    chat = prepared(encoder, **fields)
    assert chat.prompt.thinking == "optional" or form is GIGACHAT
    walks = [(rng, walked(encoder, chat.sampling.grammar, rng)) for rng in map(Random, range(4))]
    ended = [(rng, encoder.decode(ids)) for rng, ids in walks if ids is not None]
    assert ended
    for rng, said in ended:
        check(read(chat, said, rng), said, fields is FORCED)


@pytest.mark.parametrize("fields", [FORMAT, FORCED], ids=["format", "forced"])
@pytest.mark.parametrize("form", OWN, ids=lambda form: form.name)
def test_what_the_template_would_write_is_allowed_and_read(form, fields):
    chat = prepared(encoder_for(form, special=False), **fields)
    marks = form.marks
    answer = CALL if fields is FORCED else f'{marks.answer_opening}{{"a": 5}}{marks.answer_closing}'
    for thought in (f"{marks.opening}\nHm.\n{marks.closing}", ""):
        if thought and form is GIGACHAT:
            continue
        said = thought + answer
        assert allows(Grammar(chat.sampling.grammar, "x", False), said), said
        for seed in range(5):
            pieces = read(chat, said, Random(seed))
            check(pieces, said, fields is FORCED)
            assert "".join(piece.text for piece in pieces if isinstance(piece, Reasoning)) == ("Hm." if thought else "")
