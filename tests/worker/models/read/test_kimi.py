"""Kimi K2 as released loads without its own code: the type, the tokenizer of tiktoken's form, fp8 blocks and int4."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import regex
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from tests.deepseek import save_unpacked
from tests.deepseek_kin import CODE, K2, PATTERNS, RESERVED, save_kimi, save_thinking, trained_ranks
from tests.worker.conftest import SMALL, Bench, prompt_of
from worker.models.read.config import read_config
from worker.models.read.tokenizer import read_tokenizer
from worker.runners.latent.runner import LatentRunner

RANKS = trained_ranks(K2["vocab_size"] - RESERVED)
TEXTS = (
    "the quick brown fox, THEN they're there",
    "你好the你好 fox 1234567 äöü\r\n\r\n  x  ",
    "jumps🙂🙂 over" * 9,
    " \n\t\n 'The' dOg's",
    "",
)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_kimi(tmp_path_factory.mktemp("kimi"))


@pytest.fixture(scope="module")
def tokenizer(released: Path) -> PreTrainedTokenizerFast:
    found: PreTrainedTokenizerFast = read_tokenizer(str(released), read_config(str(released)))
    return found


def as_tiktoken(text: str, patterns: tuple[str, ...] = PATTERNS) -> Iterator[int]:
    """The pieces of the text, of each of which the pair that makes the lowest rank is joined until there is none."""
    for piece in regex.findall("(?V1)" + "|".join(patterns), text):
        if piece.encode() in RANKS:
            yield RANKS[piece.encode()]
            continue
        parts = [bytes([byte]) for byte in piece.encode()]
        while True:
            pairs = [RANKS.get(left + right, len(RANKS)) for left, right in zip(parts, parts[1:], strict=False)]
            if not pairs or min(pairs) == len(RANKS):
                break
            at = pairs.index(min(pairs))
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        yield from (RANKS[part] for part in parts)


@pytest.mark.parametrize("text", TEXTS)
def test_texts_become_the_tokens_that_tiktoken_makes(text: str, tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer.encode(text)
    assert ids == list(as_tiktoken(text))
    assert tokenizer.decode(ids) == text


def test_another_expression_makes_other_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    """The control of the test above."""
    other = (r"[^\r\n\p{L}\p{N}]?\p{L}+", *PATTERNS)
    assert any(tokenizer.encode(text) != list(as_tiktoken(text, other)) for text in TEXTS)


def test_tokens_after_those_of_the_file_have_their_ids_and_names(tokenizer: PreTrainedTokenizerFast) -> None:
    first = len(RANKS)
    ids = tokenizer.encode("<|im_user|>x<think>[EOS]")
    assert [ids[0], *ids[2:]] == [first + 3, first + 22, first + 1]
    assert tokenizer.convert_ids_to_tokens([first + 5, K2["vocab_size"] - 1]) == [
        f"<|reserved_token_{first + 5}|>",
        "[PAD]",
    ]
    assert tokenizer.decode([first + 22, first + 3, ids[1]], skip_special_tokens=True) == "<think>x"
    assert (tokenizer.eos_token, len(tokenizer)) == ("[EOS]", K2["vocab_size"])
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], add_generation_prompt=True, tokenize=False)
    assert chat.startswith("<|im_user|>user<|im_middle|>x<|im_end|><|im_assistant|>")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (None, r"it has no tokenization_kimi\.py, .*; copy it there, or save the tokenizer as tokenizer\.json\."),
        (CODE.replace("pat_str", "other") % "''", r"its tokenization_kimi\.py has no pat_str"),
        ("pat_str = made()", r"in its tokenization_kimi\.py pat_str is no constant"),
        ("pat_str = (", r"its tokenization_kimi\.py is no Python"),
    ],
)
def test_code_that_does_not_tell_is_refused_in_a_sentence(code: str | None, said: str, tmp_path: Path) -> None:
    folder = save_kimi(tmp_path)
    (folder / "tokenization_kimi.py").unlink()
    if code is not None:
        (folder / "tokenization_kimi.py").write_text(code)
    with pytest.raises(ValueError, match=said):
        read_tokenizer(str(folder), read_config(str(folder)))


def test_a_damaged_file_of_tokens_is_refused_in_a_sentence(tmp_path: Path) -> None:
    folder = save_kimi(tmp_path)
    with (folder / "tiktoken.model").open("a") as file:
        file.write("no token\n")
    with pytest.raises(ValueError, match=r"its tiktoken\.model has a line that is no token and rank"):
        read_tokenizer(str(folder), read_config(str(folder)))


@pytest.mark.parametrize("form", ["fp8", "int4"])
def test_answers_are_those_of_transformers_unpacked(form: str, released: Path, tmp_path: Path) -> None:
    """In float32, over latents, with experts as the files have them."""
    folder, twin = released, tmp_path / "twin"
    if form == "int4":
        folder = save_thinking(tmp_path / "packed", twin)
    else:
        save_unpacked(folder, twin)
    bench = Bench(folder, replace(SMALL, dtype="float32"))
    assert type(bench.engine.runner) is LatentRunner and bench.loaded.card.architecture == "deepseek_v3"
    prompts = {"short": prompt_of(9), "long": prompt_of(40, 3)}
    for request_id, prompt in prompts.items():
        bench.add(request_id, prompt, ignore_eos=True)
    bench.finish()
    model = deepseek_of(twin)
    for request_id, prompt in prompts.items():
        expected = model.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)[0, len(prompt) :]
        assert bench.token_ids(request_id) == expected.tolist()


def deepseek_of(folder: Path) -> Any:
    """As transformers runs a config.json that says deepseek_v3."""
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "deepseek_v3"}))
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", experts_implementation="eager")
    model.generation_config.eos_token_id = None
    return model
