import json
import re
from random import Random

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from api.reading.dialects.call_grammar import OfferedFunction
from api.reading.dialects.dialect import ToolDialect
from api.reading.dialects.known import DIALECTS, dialect_named
from api.reading.pieces import ToolCallEnd, ToolCallStart, merged
from api.reading.tool_calls import ToolCallParser
from common.errors import InvalidRequest, JobFailed
from common.grammar.answer import choice_grammar, either, json_schema_grammar, marked_text, regex_grammar
from common.grammar.thinking import after_thinking
from worker.sampling.bitmask import apply_bitmask, bitmask_words
from worker.sampling.grammar import KEPT_CHARACTERS, KEPT_GRAMMARS, GrammarCompiler

END, TURN_END = 0, 1
VOCAB_SIZE = 700  # the model has more logits than the tokenizer has tokens
SENTENCES = [
    "the weather in Paris is fine, the weather in Rome is not",
    '<think>\nIt asks for the weather.\n</think>\n\n{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}',
]
MARK = re.compile(r"<[^<>\s{}]+>|\[[A-Z_]+\]")
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "maximum": 99}},
    "required": ["city", "days"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer():
    """Byte-level BPE as real models have it, with marks for calls as Qwen's tokenizer has them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<|eos|>", "<|turn_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 10, trainer)
    tokenizer.add_tokens([AddedToken(mark, special=False) for mark in ("<tool_call>", "</tool_call>")])
    return tokenizer


@pytest.fixture(scope="module")
def compiler(tokenizer):
    return GrammarCompiler(tokenizer, [END, TURN_END], VOCAB_SIZE)


@pytest.fixture(scope="module")
def weather():
    return json_schema_grammar(WEATHER, "response_format").text


def allowed(state, vocab_size=VOCAB_SIZE):
    row = torch.zeros(bitmask_words(vocab_size), dtype=torch.int32)
    state.fill_mask(row)
    bits = (row.unsqueeze(1) >> torch.arange(32, dtype=torch.int32)) & 1
    return bits.flatten().nonzero().flatten().tolist()


def babble(state, rng, most=400):
    """Token ids drawn blindly from what the grammar allows."""
    ids = []
    while not state.is_finished and len(ids) < most:
        ids.append(rng.choice(allowed(state)))
        state.accept(ids[-1:])
    return ids


def test_any_tokens_that_the_grammar_allows_make_json_of_the_schema(compiler, tokenizer, weather):
    for seed in range(10):
        state = compiler.compile(weather)
        answer = json.loads(tokenizer.decode(babble(state, Random(seed))))
        assert state.is_finished
        assert answer.keys() == {"city", "days"}
        assert len(answer["city"]) <= 8
        assert answer["days"] <= 99


def test_end_tokens_are_allowed_only_where_the_grammar_may_end(compiler, tokenizer):
    state = compiler.compile(regex_grammar("ab(cd)?", "guided_regex").text)
    for char, may_end in (("a", False), ("b", True), ("c", False)):
        state.accept(tokenizer.encode(char).ids)
        assert ({END, TURN_END} <= set(allowed(state))) is may_end
    state.accept(tokenizer.encode("d").ids)
    assert state.is_finished
    assert allowed(state) == [END, TURN_END]


def test_after_an_end_token_only_end_tokens_follow(compiler, tokenizer):
    state = compiler.compile(regex_grammar("a*", "guided_regex").text)
    state.accept([*tokenizer.encode("a").ids, TURN_END])
    assert state.is_finished
    assert state.copy().is_finished
    assert allowed(state) == [END, TURN_END]
    with pytest.raises(JobFailed):
        state.accept(tokenizer.encode("a").ids)


def test_accepting_logged_ids_rebuilds_the_state(compiler, weather):
    state = compiler.compile(weather)
    ids = babble(state.copy(), Random(7))
    for position in range(len(ids)):
        resumed = compiler.compile(weather)
        resumed.accept(ids[:position])
        assert allowed(resumed) == allowed(state)
        state.accept([ids[position]])


def test_a_copy_goes_its_own_way(compiler, tokenizer, weather):
    state = compiler.compile(weather)
    before = allowed(state)
    copy = state.copy()
    copy.accept(tokenizer.encode('{"city": "Rome"').ids)
    assert allowed(state) == before != allowed(copy)


@pytest.mark.parametrize("text", ["hello", '{"days": 1'])
def test_tokens_that_are_not_allowed_fail_the_job_and_no_other(compiler, tokenizer, weather, text):
    with pytest.raises(JobFailed) as failed:
        compiler.compile(weather).accept(tokenizer.encode(text).ids)
    assert failed.value.code == "grammar_failed"
    assert allowed(compiler.compile(weather))


def test_the_end_before_the_end_fails_the_job(compiler, weather):
    with pytest.raises(JobFailed):
        compiler.compile(weather).accept([END])


def test_a_grammar_that_does_not_compile_is_refused(compiler):
    with pytest.raises(InvalidRequest):
        compiler.compile('{"grammars": [{"lark_grammar": "start: nothing"}]}')


def test_compiled_grammars_are_kept_up_to_a_limit(compiler):
    for number in range(KEPT_GRAMMARS + 5):
        compiler.compile(regex_grammar(f"n{number}", "guided_regex").text)
    assert len(compiler._compiled) == KEPT_GRAMMARS
    for number in range(20):
        compiler.compile(regex_grammar(f"{number}{'x' * 50_000}", "guided_regex").text)
    assert sum(map(len, compiler._compiled)) <= KEPT_CHARACTERS


def test_a_tokenizer_larger_than_the_model_masks_what_the_model_has(tokenizer, weather):
    small = GrammarCompiler(tokenizer, [END], 320)
    assert set(allowed(small.compile(weather), 320)) <= set(range(320))


def test_an_end_token_that_is_text_to_the_tokenizer_is_no_part_of_an_answer(tokenizer):
    word = tokenizer.encode(" weather").ids[0]
    state = GrammarCompiler(tokenizer, [word], VOCAB_SIZE).compile(regex_grammar("[a-z ]*!", "guided_regex").text)
    assert word not in allowed(state)
    assert tokenizer.encode(" is").ids[0] in allowed(state)


def test_the_mask_sets_forbidden_logits_to_minus_infinity_and_leaves_free_rows_alone(compiler, weather):
    bitmask = torch.full((2, bitmask_words(VOCAB_SIZE)), -1, dtype=torch.int32)
    state = compiler.compile(weather)
    state.fill_mask(bitmask[0])
    logits = torch.randn(2, VOCAB_SIZE)
    before = logits.clone()
    apply_bitmask(logits, bitmask)
    assert logits[0].isfinite().nonzero().flatten().tolist() == allowed(state)
    assert torch.equal(logits[1], before[1])


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_a_model_that_must_call_can_only_call_correctly(compiler, tokenizer, dialect: ToolDialect):
    marked = marked_text(tokenizer.to_str())
    grammar = dialect.grammar(
        [OfferedFunction("get_weather", WEATHER, True)], must_call=True, parallel=False, marked=marked
    )
    for seed in range(3):
        state = compiler.compile(grammar.text)
        parser = ToolCallParser(dialect, "seed")
        pieces = parser.feed(tokenizer.decode(babble(state, Random(seed)), skip_special_tokens=False))
        start, arguments, end = merged(pieces + parser.finish())
        assert isinstance(end, ToolCallEnd)
        assert start.name == "get_weather"
        assert json.loads(arguments.text).keys() == {"city", "days"}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
def test_marks_that_are_special_tokens_are_enforced_as_these(tokenizer, dialect: ToolDialect):
    """Special tokens are no part of free text, so every call of such a model follows the rules."""
    marks = sorted({mark for text in (*dialect.openings, *dialect.further_marks) for mark in MARK.findall(text)})
    special = Tokenizer.from_str(tokenizer.to_str())
    special.add_tokens([AddedToken(mark, special=True) for mark in marks])
    compiler, rng, called = GrammarCompiler(special, [END, TURN_END], VOCAB_SIZE), Random(dialect.name), set()
    for must_call in (True, False):
        grammar = dialect.grammar(
            [OfferedFunction("get_weather", WEATHER, True)],
            must_call=must_call,
            parallel=True,
            marked=marked_text(special.to_str()),
        )
        for _ in range(3):
            state, parser = compiler.compile(grammar.text), ToolCallParser(dialect, "seed")
            pieces = parser.feed(special.decode(babble(state, rng, 150), skip_special_tokens=False))
            starts = [piece for piece in pieces + parser.finish() if isinstance(piece, ToolCallStart)]
            assert {start.name for start in starts} <= {"get_weather"}
            called |= {must_call} if starts else set()
    assert True in called


def test_a_model_may_think_before_it_answers_in_json(compiler, tokenizer, weather):
    marked = marked_text(tokenizer.to_str())
    grammar = after_thinking(json_schema_grammar(WEATHER, "response_format"), "optional", marked)
    for answer in ('<think>\nHm, {"x".\n</think>\n\n{"city": "Rome", "days": 1}', '{"city": "Rome", "days": 1}'):
        state = compiler.compile(grammar.text)
        state.accept(tokenizer.encode(answer).ids)
        assert state.is_finished


@pytest.mark.parametrize("text", ["<|turn_end|>", "a<tool_call>b"])
def test_a_text_that_must_come_is_spelt_in_letters_also_where_it_names_a_control_token(compiler, tokenizer, text):
    state = compiler.compile(choice_grammar([text], "x").text)
    ids = babble(state, Random(1))
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert not {tokenizer.token_to_id(mark) for mark in ("<|turn_end|>", "<tool_call>")} & set(ids)


@pytest.mark.parametrize("name", ["llama3_json", "llama4", "xlam", "hermes", "qwen3_xml"])
def test_an_answer_is_a_call_or_has_the_shape_also_where_both_begin_alike(compiler, tokenizer, name):
    look_up = {"type": "object", "properties": {"q": {"type": "string", "maxLength": 5}}}
    marked = marked_text(tokenizer.to_str())
    calls = dialect_named(name).grammar(
        [OfferedFunction("look_up", look_up)], must_call=True, parallel=True, marked=marked
    )
    for shape in (WEATHER, {"type": "array", "items": WEATHER}):
        grammar = either(calls, json_schema_grammar(shape, "response_format")).text
        for seed in range(10):
            babble(compiler.compile(grammar), Random(seed), most=60)


def test_a_grammar_that_failed_is_compiled_anew_for_the_next_request(compiler, weather):
    """A panic inside llguidance makes all copies of a matcher useless."""
    state = compiler.compile(weather)
    kept = compiler._compiled[weather]
    with pytest.raises(JobFailed):
        state.accept([300])
    compiler.compile(weather)
    assert compiler._compiled[weather] is not kept
