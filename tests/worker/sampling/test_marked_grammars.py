"""Grammars whose markers are tokens of the model: any tokens that they allow are read back as calls."""

import json
from random import Random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from api.reading.dialects.call_grammar import OfferedFunction
from api.reading.dialects.known import dialect_named
from api.reading.pieces import ToolCallArguments, ToolCallEnd
from api.reading.tool_calls import ToolCallParser
from common.grammar.answer import marked_text
from tests.worker.sampling.test_grammar import VOCAB_SIZE, WEATHER, babble
from worker.sampling.grammar import GrammarCompiler

NAMES = ("gemma4", "function_gemma", "lfm2", "olmo3", "apertus", "nemotron_v2", "phi4")
SCHEMA = {
    **WEATHER,
    "properties": {**WEATHER["properties"], "unit": {"enum": ["c", "it's"]}, "tags": {"type": "array", "maxItems": 2}},
}
SCHEMA["properties"]["tags"]["items"] = {"type": "string", "minLength": 1, "maxLength": 3}


@pytest.mark.parametrize("name", NAMES)
def test_any_tokens_that_the_grammar_allows_are_calls_where_markers_are_tokens(name):
    dialect = dialect_named(name)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["call:get_weather{city:days:unit"] * 10, trainer)
    marks = (*dialect.openings, *dialect.further_marks)
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in marks if mark.startswith("<")])
    compiler = GrammarCompiler(tokenizer, [0], VOCAB_SIZE)
    grammar = dialect.grammar(
        [OfferedFunction("get_weather", SCHEMA, True)],
        must_call=True,
        parallel=True,
        marked=marked_text(tokenizer.to_str()),
    )
    ended = 0
    for seed in range(12):
        state = compiler.compile(grammar.text)
        text = tokenizer.decode(babble(state, Random(seed)), skip_special_tokens=False).removesuffix("<|end|>")
        if not state.is_finished:
            continue
        ended += 1
        parser = ToolCallParser(dialect, "seed")
        pieces = [*parser.feed(text), *parser.finish()]
        arguments = "".join(piece.text for piece in pieces if isinstance(piece, ToolCallArguments) and not piece.index)
        assert {"city", "days"} <= json.loads(arguments).keys() <= {"city", "days", "unit", "tags"}
        assert parser.has_called
        assert isinstance(pieces[-1], ToolCallEnd)
    assert ended
