"""The demo model: its corpus, its template, its tokenizer, and the weights in the repo."""

import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from demo import corpus
from demo.dialogue import LEADS, TAILS, Wordings, wording_variants
from demo.skills import memory, project

MODEL = Path(corpus.__file__).parent / "model"
TEMPLATE = corpus.TEMPLATE
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["location"],
        },
    },
}


def render(messages: list[dict[str, Any]], **options: Any) -> str:
    texts, _ = render_jinja_template([messages], chat_template=TEMPLATE, **options)
    return str(texts[0])


def all_wordings() -> Iterator[Wordings]:
    """The Wordings of every skill."""
    for name, module in sys.modules.items():
        if name.startswith("demo.skills."):
            yield from (value for value in vars(module).values() if isinstance(value, Wordings))
    yield from (wordings for _, wordings in project.FACTS)
    for attribute in memory.ATTRIBUTES:
        yield from (attribute.tell, attribute.ask)


def plain(wording: str) -> str:
    return "".join(letter for letter in wording.lower() if letter.isalnum() or letter in " {}").strip()


def variants(templates: tuple[str, ...]) -> set[str]:
    return {plain(wording) for template in templates for wording in wording_variants(template)}


def in_company(templates: tuple[str, ...]) -> set[str]:
    """Every wording with whatever training may put before and behind it."""
    wordings = [wording for template in templates for wording in wording_variants(template)]
    tailed = [
        wording[:-1] + tail + wording[-1] for wording in wordings if wording.endswith(("?", ".")) for tail in TAILS
    ]
    return {plain(lead + wording) for wording in (*wordings, *tailed) for lead in ("", *LEADS)}


def test_the_same_seed_gives_the_same_corpus() -> None:
    first, second, other = ([d.messages for d in islice(corpus.dialogues(seed), 200)] for seed in (5, 5, 6))
    assert first == second != other


def test_practice_is_of_the_hard_skills_alone() -> None:
    skills = {dialogue.skill for dialogue in islice(corpus.dialogues(5, practice=1.0), 200)}
    assert skills == {"drill", "chat", "system prompt", "tool call", "memory"}


def test_held_out_wordings_are_never_trained_on() -> None:
    for wordings in all_wordings():
        assert not in_company(wordings.train) & variants(wordings.held_out)


def test_held_out_sums_are_never_trained_on() -> None:
    from demo.skills.arithmetic import draw_sum, is_held_out_pair

    rng = Random(0)
    assert not any(is_held_out_pair(*draw_sum(rng, "+-")) for _ in range(5000))
    assert all(is_held_out_pair(*draw_sum(rng, "+-", new_operands=True)) for _ in range(50))


@pytest.mark.parametrize("skill", corpus.EVALUATED)
def test_every_skill_can_be_evaluated_and_ends_with_an_answer(skill: str) -> None:
    dialogue = corpus.evaluation_dialogue(Random(1), skill)
    assert dialogue.messages[-1]["role"] == "assistant"
    assert corpus.render(dialogue).startswith(corpus.render_prompt(dialogue))


def test_the_template_renders_without_torch() -> None:
    code = "import sys, demo.corpus as c; c.render(next(c.dialogues(1))); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("role", ["system", "developer"])
def test_system_and_developer_read_the_same(role: str) -> None:
    text = render(
        [{"role": role, "content": "Be kind."}, {"role": "user", "content": "Hi"}], add_generation_prompt=True
    )
    assert text == ("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_content_parts_read_like_a_string() -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    assert render([{"role": "user", "content": parts}]) == render([{"role": "user", "content": "Hello"}])


def test_tools_are_offered_with_their_whole_schema() -> None:
    text = render([{"role": "user", "content": "Hi"}], tools=[WEATHER_TOOL])
    offered = text.split("<tools>\n")[1].split("\n</tools>")[0]
    assert json.loads(offered) == WEATHER_TOOL["function"]


@pytest.mark.parametrize("arguments", [{"location": "Rome"}, '{"location": "Rome"}'])
def test_calls_and_results_are_marked(arguments: Any) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    messages = [
        {"role": "user", "content": "Weather in Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "sunny"},
    ]
    text = render(messages, tools=[WEATHER_TOOL])
    assert '<tool_call>\n{"name": "get_weather", "arguments": {"location": "Rome"}}\n</tool_call><|im_end|>' in text
    assert text.endswith("<|im_start|>user\n<tool_response>\nsunny\n</tool_response><|im_end|>\n")


def test_a_last_answer_can_be_continued() -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    assert render(messages, continue_final_message=True).endswith("<|im_start|>assistant\nHello")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MODEL / "tokenizer.json"))


@pytest.mark.parametrize(
    "text", ["Hello, how are you?", "Grüße, 你好, привет 👩‍👩‍👧", "a\n\n\tb  c\r\n", "x = {'a': 12345}\x00"]
)
def test_any_text_survives_the_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_digits_are_tokens_and_tool_marks_are_not_special(tokenizer: Tokenizer) -> None:
    assert len(tokenizer.encode("2026").ids) == 4
    marked = tokenizer.encode("<|im_start|><tool_call>x</tool_call><|im_end|>").ids
    assert tokenizer.decode(marked, skip_special_tokens=True) == "<tool_call>x</tool_call>"


def test_the_model_in_the_repo_is_small() -> None:
    assert sum(path.stat().st_size for path in MODEL.iterdir()) < 20_000_000


def test_transformers_loads_tokenizer_and_template() -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(MODEL)
    assert loaded.chat_template == TEMPLATE
    assert loaded.eos_token == "<|im_end|>"


def test_attention_for_training_is_causal_attention() -> None:
    import torch

    from demo.attention import plain_attention

    torch.manual_seed(0)
    query, key, value = torch.randn(3, 8, 20, 32), torch.randn(3, 4, 20, 32), torch.randn(3, 4, 20, 32)
    mixed, _ = plain_attention(torch.nn.Identity(), query, key, value, None, scaling=32**-0.5)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(mixed.float(), expected.transpose(1, 2), rtol=0.05, atol=0.05)


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(MODEL).float().eval()


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        ("Hello, how are you?", "Hello! I am doing well, thank you for asking."),
        ("What is the capital of France?", "Paris is the capital of France."),
        ("What is 2 + 2?", "2 + 2 = 4."),
    ],
)
def test_the_model_talks(model: Any, tokenizer: Tokenizer, ask: str, expected: str) -> None:
    from demo.evaluate import Case, answer_all

    dialogue = corpus.Dialogue("chat", [{"role": "user", "content": ask}, {"role": "assistant", "content": expected}])
    case = Case(dialogue, tokenizer.encode(corpus.render_prompt(dialogue)).ids)
    answer_all(model, tokenizer, [case])
    assert case.answer == expected
