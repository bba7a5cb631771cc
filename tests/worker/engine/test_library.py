"""The engine as a library, and on a machine that has torch and transformers and little else."""

import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from common.errors import JobFailed
from tests.test_house import LAZY_BARE, NEVER_BARE, ROOT
from worker.engine import LLM, Delta, EngineConfig, Failed, Finished, Generated, SamplingParams

PAGE = ROOT / "docs" / "library.md"
GREEDY = SamplingParams(max_tokens=8, seed=0, temperature=0.0, ignore_eos=True)
PROMPTS = ["Hello", "Tell me a story about the sea.", [5, 6, 7]]

# The finders find no package of the given names, as on a machine without them.
BARE_MACHINE = """
import sys

HIDDEN = frozenset(sys.argv[1].split(","))

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in HIDDEN else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = map(Without, sys.meta_path)
"""
GENERATE = """
from worker.engine import LLM, SamplingParams

sampling = SamplingParams(max_tokens=5, seed=0, ignore_eos=True)
answers = LLM("demo/model").generate(["Hello", "Tell me a story"], sampling)
assert [len(answer.choices[0].token_ids) for answer in answers] == [5, 5], answers
assert not HIDDEN & {name.split(".")[0] for name in sys.modules}
"""


@pytest.fixture(scope="module")
def llm() -> LLM:
    return LLM(ROOT / "demo" / "model", EngineConfig(threads=1, max_num_seqs=8))


def on_a_bare_machine(code: str) -> "subprocess.CompletedProcess[str]":
    hidden = ",".join(NEVER_BARE | LAZY_BARE)
    command = [sys.executable, "-c", BARE_MACHINE + code, hidden]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_it_generates_where_only_torch_and_transformers_are_installed() -> None:
    done = on_a_bare_machine(GENERATE)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["worker.configuration", "worker.sampling.grammar", "common.images"])
def test_an_import_of_what_a_bare_machine_lacks_would_be_noticed(module: str) -> None:
    done = on_a_bare_machine(f"import {module}")
    assert done.returncode == 1 and "ModuleNotFoundError" in done.stderr


def test_the_engine_s_interface_loads_no_torch() -> None:
    code = "import sys, worker.engine.interface; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(ImportError, match="cannot import name 'Motor'"):
        from worker.engine import Motor  # noqa: F401


def test_the_examples_of_the_page_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(examples) >= 4
    exec(compile("".join(examples), str(PAGE), "exec"), {})


def test_prompts_together_get_the_answers_that_they_get_alone(llm: LLM) -> None:
    together = llm.generate(PROMPTS, GREEDY)
    alone = [llm.generate([prompt], GREEDY)[0] for prompt in PROMPTS]
    assert [answer.choices for answer in together] == [answer.choices for answer in alone]
    assert [len(answer.choices[0].token_ids) for answer in together] == [8, 8, 8]
    assert together[2].prompt_ids == (5, 6, 7)


def test_each_prompt_may_have_parameters_of_its_own(llm: LLM) -> None:
    one, three = llm.generate(
        PROMPTS[:2],
        [GREEDY, SamplingParams(max_tokens=4, seed=1, n=3, logprobs=2, ignore_eos=True)],
    )
    assert len(one.choices) == 1 and len(three.choices) == 3
    assert [len(choice.logprobs) for choice in three.choices] == [4, 4, 4]


def test_a_prompt_that_fails_does_not_end_the_others(llm: LLM) -> None:
    bad, good = llm.generate([[10**7], "Hello"], GREEDY)
    assert isinstance(bad.end, Failed) and bad.choices == ()
    assert isinstance(good.end, Finished) and good.text
    with pytest.raises(JobFailed, match="outside the vocabulary"):
        _ = bad.text


def test_a_stream_gives_the_text_of_generate_piece_by_piece(llm: LLM) -> None:
    events = list(llm.stream(PROMPTS, GREEDY))
    text = "".join(event.text for place, event in events if place == 1 and isinstance(event, Delta))
    assert text == llm.generate([PROMPTS[1]], GREEDY)[0].text
    assert sum(isinstance(event, Finished) for _, event in events) == 3


def test_a_closed_stream_is_cancelled_and_another_goes_on(llm: LLM) -> None:
    left, kept = llm.stream([PROMPTS[0]], GREEDY), llm.stream([PROMPTS[1]], GREEDY)
    seen = [next(kept), next(left), next(kept), next(left)]
    assert llm.engine.stats().num_running == 2
    left.close()
    assert llm.engine.stats().num_running == 1
    seen += list(kept)
    text = "".join(event.text for at, (_, event) in enumerate(seen) if at not in (1, 3) and isinstance(event, Delta))
    assert text == llm.generate([PROMPTS[1]], GREEDY)[0].text
    assert not llm.engine.has_work and not llm._unread


def test_threads_that_share_a_model_get_the_answers_that_one_gets(llm: LLM) -> None:
    prompts = [f"Once upon a time {number}" for number in range(8)]
    expected = [answer.text for answer in llm.generate(prompts, GREEDY)]
    for _ in range(4):
        with ThreadPoolExecutor(len(prompts)) as threads:
            answers = threads.map(lambda prompt: llm.generate([prompt], GREEDY)[0].text, prompts, timeout=30)
            assert list(answers) == expected
    assert not llm.engine.has_work and not llm._unread


def test_a_conversation_is_rendered_by_the_model_s_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    ids = llm.render(messages)
    assert llm.tokenizer.decode(ids).count("Hello") == 1 and len(ids) > len(
        llm.render(messages, add_generation_prompt=False)
    )
    [answer] = llm.chat([messages], GREEDY)
    assert isinstance(answer, Generated) and answer.prompt_ids == tuple(ids)


def test_a_single_text_in_place_of_a_list_is_refused(llm: LLM) -> None:
    with pytest.raises(TypeError, match="write \\[prompt\\]"):
        llm.generate("Hello", GREEDY)


def test_a_folder_without_a_model_raises(tmp_path: Path) -> None:
    with pytest.raises((OSError, ValueError)):
        LLM(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_ranks": 2}, "one process"),
        ({"quantization": "int8"}, "quantization='int8': write quantization_named"),
        ({"kv_dtype": "frob"}, "kv_dtype='frob': it is one of auto, fp8"),
        ({"gpu_memory_utilization": 5}, "gpu_memory_utilization=5: it is from"),
        ({"speculate": -1}, "speculate=-1: it is from 0 to 16"),
        ({"speculate": "4"}, "speculate='4': it is an int"),
        ({"max_model_len": 1}, "max_model_len=1: it is 16 or more"),
        ({"max_num_seqs": -1}, "max_num_seqs=-1: it is 1 or more"),
        ({"max_num_seqs": "8"}, "max_num_seqs='8': it is an int"),
        ({"max_step_tokens": 0}, "max_step_tokens=0"),
        ({"kv_memory_bytes": 0}, "kv_memory_bytes=0"),
        ({"threads": 0}, "threads=0: it is from 1 to 1024"),
    ],
)
def test_a_bad_configuration_is_refused_by_its_field(changes: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        LLM(ROOT / "demo" / "model", EngineConfig(**changes))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("max_tokens", (0, -1, 5.5, "5", None)),
        ("seed", (None, "x", 2**64)),
        ("temperature", (-1.0, float("nan"), "hot")),
        ("top_p", (0.0, 5)),
        ("top_k", (-1, 2.5)),
        ("min_p", (2.0,)),
        ("repetition_penalty", (0.0, float("inf"))),
        ("n", (0, -1)),
        ("logprobs", (-1, 25, True)),
        ("stop", ("lizard", (1,))),
        ("stop_token_ids", (("a",), 7)),
        ("logit_bias", ({5: 100}, ((10**7, 1.0),), ((5, float("inf")),), ((5,),))),
    ],
)
def test_parameters_out_of_range_are_refused_by_their_field(llm: LLM, field: str, values: tuple[Any, ...]) -> None:
    for value in values:
        params: dict[str, Any] = {"max_tokens": 2, "seed": 0, field: value}
        with pytest.raises((TypeError, ValueError), match=rf"SamplingParams\.{field}\b"):
            llm.generate(PROMPTS, [GREEDY, SamplingParams(**params), GREEDY])
    assert not llm.engine.has_work


def test_arguments_of_another_form_are_refused(llm: LLM) -> None:
    with pytest.raises(ValueError, match="1 entries for 3 prompts"):
        llm.generate(PROMPTS, [GREEDY])
    with pytest.raises(TypeError, match="dict in place of SamplingParams"):
        llm.generate(PROMPTS[:1], [{"max_tokens": 3}])  # type: ignore[list-item]
    for prompt in (None, b"abc", 5):
        with pytest.raises(TypeError, match="a text or a list of token ids"):
            llm.generate([prompt], GREEDY)  # type: ignore[list-item]
    with pytest.raises(TypeError, match=re.escape("write [conversation]")):
        llm.chat([{"role": "user", "content": "Hello"}], GREEDY)  # type: ignore[list-item]
