"""An answer that is either a call or of a requested shape."""

from random import Random

import pytest
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from api.reading.dialects.call_grammar import OfferedFunction
from api.reading.dialects.known import DIALECTS, dialect_named
from common.grammar.answer import Grammar, ebnf_grammar, either, json_object_grammar, json_schema_grammar
from common.grammar.check import EOS_ID, BytesTokenizer, parser_limits
from tests.api.reading.dialects.examples import EXAMPLES
from tests.grammars import CITY, PLAIN, TREE, allows

FUNCTIONS = [OfferedFunction("get_weather", CITY), OfferedFunction("walk", TREE), OfferedFunction("now", None)]
SHAPES = {
    "schema": json_schema_grammar({**CITY, "required": []}, "response_format"),
    "object": json_object_grammar(),
    "lark": ebnf_grammar('start: "{" "}"\n%ignore /[ \\n]+/', "grammar"),
}


class WordsTokenizer(BytesTokenizer):
    """Bytes, and tokens of several characters, as models have them."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens += [
            text.encode() for text in ("    ", "\n ", '{"', '"name', '": "', "{\n", '"}', "}}", ', "', "city")
        ]


def made(name: str, shape: str) -> Grammar:
    calls = dialect_named(name).grammar(FUNCTIONS, must_call=True, parallel=True, marked=PLAIN)
    return either(calls, SHAPES[shape])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [dialect.name for dialect in DIALECTS])
def test_any_tokens_that_are_allowed_can_be_taken(name, shape):
    tokenizer = LLTokenizer(TokenizerWrapper(WordsTokenizer()))
    num_tokens = len(WordsTokenizer().tokens)
    for seed in range(8):
        rng = Random(seed)
        matcher = LLMatcher(tokenizer, made(name, shape).text, log_level=0, limits=parser_limits())
        for _ in range(30):
            mask = matcher.compute_bitmask()
            allowed = [token for token in range(num_tokens) if mask[token // 8] >> (token % 8) & 1 and token != EOS_ID]
            assert not matcher.is_error(), matcher.get_error()
            if not allowed:
                break
            words = [token for token in allowed if token > EOS_ID]
            matcher.consume_token(rng.choice(words or allowed))


@pytest.mark.parametrize("name", [dialect.name for dialect in DIALECTS])
def test_an_answer_is_a_call_or_of_the_shape(name):
    assert allows(made(name, "schema"), EXAMPLES[name].allowed)
    assert allows(made(name, "schema"), '{"city": "Rome"}')
    assert not allows(made(name, "schema"), '{"town": "Rome"}')
    assert not allows(made(name, "schema"), "a")
