"""The engine as a library, and on a machine that has torch and transformers and little else."""

import gc
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import JobFailed
from tests.models import save_model
from tests.test_house import LAZY_BARE, NEVER_BARE, ROOT
from tests.worker.models.damaged import cut, set_config
from worker.engine import LLM, Delta, EngineConfig, Failed, Finished, Generated, SamplingParams
from worker.kernels.quantized import Int8
from worker.models.config_checks import checked_config

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


def test_a_stream_that_the_collector_closes_within_a_step_is_cancelled_after_it(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [answer.text for answer in llm.generate(PROMPTS, GREEDY)]
    cycle: list[Any] = [llm.stream(PROMPTS, SamplingParams(max_tokens=100, seed=0, ignore_eos=True))]
    next(cycle[0])
    cycle.append(cycle)
    del cycle
    seen: list[str] = []

    def commit(step: Any) -> Any:
        if not seen:
            seen.append("step begins")
            gc.collect()
            seen.append("step ends")
        return commit_of(step)

    def cancel(request_id: str) -> None:
        seen.append("cancelled")
        cancel_of(request_id)

    commit_of, cancel_of = llm.engine._commit, llm.engine.cancel
    monkeypatch.setattr(llm.engine, "_commit", commit)
    monkeypatch.setattr(llm.engine, "cancel", cancel)
    assert [answer.text for answer in llm.generate(PROMPTS, GREEDY)] == expected
    assert "cancelled" in seen and "step begins, cancelled" not in ", ".join(seen)
    assert not llm.engine.has_work and not llm._unread


def test_a_conversation_is_rendered_by_the_model_s_template(llm: LLM) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    ids = llm.render(messages)
    assert llm.tokenizer.decode(ids).count("Hello") == 1 and len(ids) > len(
        llm.render(messages, add_generation_prompt=False)
    )
    [answer] = llm.chat([messages], GREEDY)
    assert isinstance(answer, Generated) and answer.prompt_ids == tuple(ids)


def test_a_conversation_with_a_model_without_a_template_is_refused(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    monkeypatch.setattr(llm.tokenizer, "chat_template", None)
    for call in (llm.render, lambda conversation: llm.chat([conversation], GREEDY)):
        with pytest.raises(ValueError, match=r"^The model has no chat template: give generate\(\) a text"):
            call(messages)
    own = "{{ messages[0].content }}!"
    assert llm.tokenizer.decode(llm.render(messages, chat_template=own)) == "Hello!"


def test_what_is_no_conversation_is_refused_by_the_name_that_was_given(llm: LLM) -> None:
    with pytest.raises(TypeError, match=r"^messages is 'hi': a conversation is a list of messages\.$"):
        llm.render("hi")  # type: ignore[arg-type]


def test_a_single_text_in_place_of_a_list_is_refused(llm: LLM) -> None:
    with pytest.raises(TypeError, match="write \\[prompt\\]"):
        llm.generate("Hello", GREEDY)


def test_a_folder_without_a_model_raises(tmp_path: Path) -> None:
    with pytest.raises((OSError, ValueError)):
        LLM(tmp_path)


@pytest.mark.parametrize(
    ("field", "values", "said"),
    [
        ("num_ranks", (2,), "one process"),
        ("quantization", ("frob", 8), "it must be int8, int4, fp8, a Quantization or None"),
        ("kv_dtype", ("frob", None), "it must be auto or fp8"),
        ("experts", ("cpu", None), "it must be auto, gpu or ram"),
        ("kv_dtype", ("fp8",), "EngineConfig.kv_dtype=fp8 needs a GPU: set it to auto, or EngineConfig.device"),
        ("dtype", ("float8", 16), "it must be auto, float32, bfloat16 or float16"),
        ("device", ("gpu", 0), "it must be auto, cpu, cuda or cuda:N"),
        ("device", ("cuda:99",), "there is no device cuda:99"),
        ("gpu_memory_utilization", (5, 0, "0.9"), "it must be a number above 0 and up to 1"),
        ("speculate", (-1, 100, "4", True), "it must be a whole number from 0 to 16"),
        ("max_model_len", (0, 1), "it must be a whole number of at least 16, or None"),
        ("max_num_seqs", (0, -1, "8", 2.5), "it must be a whole number from 1 to 4096, or None"),
        ("max_step_tokens", (0,), "of at least 1"),
        ("kv_memory_bytes", (0, 1e9), "of at least 1"),
        ("threads", (0, 10**4), "from 1 to 1024"),
        ("overlap", (1,), "it must be True, False or None"),
        ("adapters", ("sql", (("sql",),), (("a", "/x"), ("a", "/y"))), "pairs of a name and a folder"),
        ("draft_model", (None,), "a folder or hub id"),
        ("draft_model", ("/nonexistent",), "EngineConfig.draft_model=/nonexistent cannot be loaded: there is no such"),
        ("draft_model", (str(PAGE),), "cannot be loaded: that is a file"),
    ],
)
def test_a_bad_configuration_is_refused_by_its_field(field: str, values: tuple[Any, ...], said: str) -> None:
    for value in values:
        with pytest.raises((TypeError, ValueError, OSError), match=re.escape(said)) as raised:
            LLM(ROOT / "demo" / "model", EngineConfig(**{field: value}))
        assert f"EngineConfig.{field}=" in str(raised.value)


def test_a_quantization_is_taken_by_its_name() -> None:
    given: Any = "int8"
    assert checked_config(EngineConfig(quantization=given)).quantization == Int8()
    assert checked_config(EngineConfig(quantization=Int8())).quantization == Int8()


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("max_tokens", (0, -1, 5.5, "5", None)),
        ("seed", (None, "x", 2**64)),
        ("temperature", (-1.0, 2.1, float("nan"), "hot")),
        ("top_p", (0.0, 5)),
        ("top_k", (-2, 2.5)),
        ("min_p", (2.0,)),
        ("presence_penalty", (3,)),
        ("frequency_penalty", (-3,)),
        ("repetition_penalty", (0.0, float("inf"))),
        ("n", (0, -1)),
        ("logprobs", (-1, 25, True)),
        ("stop", ("", (1,), b"a", "\ud800")),
        ("stop_token_ids", (("a",), 7, (10**7,), (-1,))),
        ("logit_bias", ({10**7: 1.0}, ((5, float("inf")),), ((5,),), 5, {"a": 1})),
        ("min_tokens", (-1,)),
        ("ignore_eos", ("no",)),
        ("grammar", (5,)),
    ],
)
def test_parameters_out_of_range_are_refused_by_their_field(llm: LLM, field: str, values: tuple[Any, ...]) -> None:
    for value in values:
        params: dict[str, Any] = {"max_tokens": 2, "seed": 0, field: value}
        with pytest.raises((TypeError, ValueError), match=rf"SamplingParams\.{field}\b"):
            llm.generate(PROMPTS, [GREEDY, SamplingParams(**params), GREEDY])
    assert not llm.engine.has_work


def test_other_spellings_of_parameters_mean_the_same(llm: LLM) -> None:
    usual: dict[str, Any] = {"max_tokens": 6, "seed": 3, "ignore_eos": True}
    for spelled, field in (
        ({"stop": "zz"}, {"stop": ("zz",)}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"logit_bias": {"5": 100, 6: 1}}, {"logit_bias": ((5, 100.0), (6, 1.0))}),
        ({"temperature": 1e-7}, {"temperature": 0.0}),
        ({"seed": torch.tensor([3]).numpy()[0]}, {"seed": 3}),
    ):
        expected = llm.generate(PROMPTS[:1], SamplingParams(**(usual | field)))
        assert llm.generate(PROMPTS[:1], SamplingParams(**(usual | spelled))) == expected
        assert llm.generate(PROMPTS[:1], usual | spelled) == expected


def test_parameters_may_be_left_out(llm: LLM) -> None:
    twice = llm.generate([PROMPTS[1]] * 2)
    assert all(isinstance(answer.end, Finished) and len(answer.choices[0].token_ids) <= 256 for answer in twice)
    assert llm.chat([[{"role": "user", "content": "Hello"}]], {"max_tokens": 4})[0].text
    assert [place for place, _ in llm.stream(["Hello"], {"max_tokens": 1})][0] == 0


def test_prompts_come_in_any_list_of_texts_or_ids(llm: LLM) -> None:
    expected = llm.generate([[5, 6, 7]] * 3, GREEDY)
    assert llm.generate((prompt for prompt in [(5, 6, 7), [5, 6, 7], torch.tensor([5, 6, 7])]), GREEDY) == expected


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((None, GREEDY), "`prompts` is a list: write [prompt]"),
        ((b"abc", GREEDY), "`prompts` is a list: write [prompt]"),
        (([1, 2, 3], GREEDY), "prompts[0] is 1: a prompt is a text or a list of token ids"),
        ((["Hello", None], GREEDY), "prompts[1] is None"),
        (([b"abc"], GREEDY), "prompts[0] is b'abc'"),
        (([[1, "a"]], GREEDY), "prompts[0] is [1, 'a']: token ids are whole numbers"),
        ((["a\ud800"], GREEDY), "prompts[0]: character 1 is half of a surrogate pair"),
        ((["Hello"] * 3, [GREEDY]), "1 entries for 3 prompts"),
        ((["Hello"], [GREEDY] * 2), "2 entries for 1 prompts"),
        ((["Hello"], {"max_token": 3}), "no field 'max_token'; it has max_tokens, "),
        ((["Hello"], 5), "sampling=5: it must be a list"),
        ((["Hello"], ["greedy"]), "sampling='greedy': it must be SamplingParams"),
    ],
)
def test_prompts_of_another_form_are_refused(llm: LLM, arguments: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        llm.generate(*arguments)
    assert not llm.engine.has_work


@pytest.mark.parametrize(
    ("conversations", "said"),
    [
        ([{"role": "user", "content": "Hello"}], "a single one: [messages]"),
        ("Hello", "`conversations` is a list: write [messages]"),
        (["Hello"], "conversations[0] is 'Hello'"),
        ([[{"content": "Hello"}]], "a message is a mapping with a role"),
        ([[{"role": "user", "content": "\udc00"}]], "half of a surrogate pair"),
        ([[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]], "takes text alone"),
    ],
)
def test_conversations_of_another_form_are_refused(llm: LLM, conversations: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        llm.chat(conversations, GREEDY)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "its model.safetensors is not a complete safetensors file; copy or download it again"),
        (lambda folder: (folder / "config.json").unlink(), "there is no config.json in that folder"),
        (lambda folder: set_config(folder, hidden_size=64), "its weights have other shapes than its config.json says"),
        (lambda folder: (folder / "chat_template.jinja").write_text("{% if %}"), "chat_template.jinja has a syntax"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named_with_its_fault(
    tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    folder = save_model(tmp_path, "llama")
    damage(folder)
    with pytest.raises((ValueError, OSError), match=re.escape(f"{folder} cannot be loaded: ")) as raised:
        LLM(folder)
    assert said in str(raised.value)


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="/nonexistent/x cannot be loaded: there is no such folder"):
        LLM("/nonexistent/x")
