"""Requests to a model that writes harmony: what is enforced is read back, and marks are no text."""

import json
from dataclasses import replace
from random import Random

import pytest
import torch
from tokenizers import Tokenizer

from api.prompt.encoder import PromptEncoder
from api.reading.choice import ChoiceParser, stored_options
from api.reading.pieces import Content, Reasoning, ToolCallArguments, ToolCallEnd, ToolCallStart
from common.wire import Delta
from tests.api.chat_requests import JSON_SCHEMA, NAMED, SCHEMA, STRICT, TOOL, prepared
from tests.api.harmony_model import MARKS, harmony_card
from worker.sampling.bitmask import bitmask_words
from worker.sampling.grammar import GrammarCompiler

NOW = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def encoder():
    return PromptEncoder(harmony_card())


@pytest.fixture(scope="module")
def compiler(encoder):
    card = encoder.card
    return GrammarCompiler(Tokenizer.from_str(card.tokenizer), card.eos_token_ids, card.vocab_size)


def test_marks_stay_in_the_text_and_the_form_is_stored(encoder):
    chat = prepared(encoder, tools=[TOOL])
    assert not chat.sampling.skip_special_tokens
    assert stored_options(chat.options)["reasoning_form"] == "harmony"
    assert stored_options(chat.options)["tool_format"] == "harmony"
    assert chat.prompt.thinking == "optional"


def test_a_mark_is_no_text_that_a_stop_string_could_meet(encoder):
    assert prepared(encoder, stop=["<|end|>", "END"]).sampling.stop == ("END",)
    assert prepared(encoder, stop=["<|end|>"], skip_special_tokens=False).sampling.stop == ("<|end|>",)


def test_a_call_ends_the_answer_although_the_card_does_not_say_so(encoder):
    other = PromptEncoder(replace(harmony_card(), eos_token_ids=()))
    ends = encoder.card.eos_token_ids
    assert prepared(other, tools=[TOOL]).sampling.stop_token_ids == ends
    assert prepared(other, tools=[TOOL]).options.stop_token_ids == ends
    assert prepared(other, tools=[TOOL], ignore_eos=True).sampling.stop_token_ids == ()


def walked(compiler, text, ends, rng, most=600):
    """Token ids drawn from what the grammar allows; None for an answer that does not end."""
    state, ids = compiler.compile(text), []
    size = 256 + len(MARKS)
    row = torch.zeros(bitmask_words(size), dtype=torch.int32)
    while len(ids) < most:
        state.fill_mask(row)
        bits = (row.unsqueeze(1) >> torch.arange(32, dtype=torch.int32)) & 1
        allowed = bits.flatten()[:size].nonzero().flatten().tolist()
        marks = [token for token in allowed if token >= 256]
        plain = [token for token in allowed if token < 256]
        token = rng.choice(marks if marks and (not plain or rng.random() < 0.2) else plain)
        ids.append(token)
        if token in ends:
            return ids
        state.accept([token])
    return None


@pytest.mark.parametrize(
    ("request_fields", "must_call"),
    [
        ({"tools": [STRICT, NOW], "tool_choice": "required"}, True),
        ({"tools": [TOOL, NOW], "tool_choice": NAMED}, True),
        ({"tools": [STRICT, NOW]}, False),
        ({"tools": [TOOL], "parallel_tool_calls": False}, False),
        ({"response_format": JSON_SCHEMA}, False),
        ({"response_format": JSON_SCHEMA, "tools": [STRICT]}, False),
    ],
)
def test_what_a_request_enforces_is_what_is_read(encoder, compiler, request_fields, must_call):
    chat = prepared(encoder, **request_fields)
    seen = 0
    for seed in range(40):
        ids = walked(compiler, chat.sampling.grammar, encoder.card.eos_token_ids, Random(seed))
        if ids is None:
            continue
        seen += 1
        said = encoder.decode(ids[:-1])
        parser = ChoiceParser(chat.options, "job", 0)
        pieces = [piece for char in said for piece in parser.read(Delta(0, (1,), char))]
        pieces += parser.read(Delta(0, ids[-1:], "", finish_reason="stop"))
        calls = [piece for piece in pieces if isinstance(piece, ToolCallStart)]
        content = "".join(piece.text for piece in pieces if isinstance(piece, Content))
        assert sum(isinstance(piece, ToolCallEnd) for piece in pieces) == len(calls), said
        assert parser.finish_reason == ("tool_calls" if calls else "stop")
        for call in calls:
            written = (p.text for p in pieces if isinstance(p, ToolCallArguments) and p.index == call.index)
            arguments = json.loads("".join(written))
            if call.name == "add" and "parallel_tool_calls" not in request_fields:
                assert arguments.keys() == SCHEMA["properties"].keys() and isinstance(arguments["a"], int), said
        if must_call:
            assert len(calls) == 1 and not content, said
        elif "response_format" in request_fields and not calls:
            assert json.loads(content).keys() == {"a"}, said
        assert not any(
            mark in piece.text for piece in pieces if isinstance(piece, Content | Reasoning) for mark in MARKS
        )
    assert seen > 15


def test_a_continued_text_cannot_call(encoder):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Four"}]
    fields = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    assert prepared(encoder, tools=[STRICT], **fields).sampling.grammar is None
    shaped = prepared(encoder, response_format=JSON_SCHEMA, **fields)
    assert "final" not in shaped.sampling.grammar
