"""Answers with adapters are those of a model with the adapter merged into its weights, alone and among others."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.errors import InvalidRequest
from common.wire import Failed
from tests.adapters import merge, new_adapter, random_layers, save_adapter
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from tests.worker.models.formats.test_fp8_blocks import PACKING, pack
from tests.worker.models.formats.twins import save_twins
from tests.worker.runners.latent.models import NATIVE_WIDTHS
from worker.kernels.adapters.grouped import GroupedChange
from worker.kernels.quantized import quantization_named
from worker.models.adapters.peft_config import GivenAdapterFault
from worker.runners.base import ModelRunner
from worker.runners.decoder import DecoderRunner
from worker.runners.hybrid import HybridRunner
from worker.runners.latent.native import NativeLatentRunner
from worker.runners.latent.runner import LatentRunner
from worker.runners.micro_batches import MicroBatches, cut
from worker.runners.native_decoder import NativeDecoderRunner
from worker.runners.probe import probe_sequence
from worker.runners.sequential import SequentialRunner
from worker.state.scheduled_sequence import ScheduledSequence

NUM_TOKENS = 12
WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "num_key_value_heads": 1}  # for C kernels


@pytest.fixture(scope="module")
def wide(model_folder: ModelFolder) -> Path:
    return model_folder(**WIDE, tie_word_embeddings=True)


@pytest.fixture(scope="module")
def adapters(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of three ranks; one of them of some layers only."""
    root = tmp_path_factory.mktemp("adapters")
    some = random_layers(wide, 3, lambda name: name.endswith(("q_proj", "v_proj", "down_proj")), seed=3)
    return {
        "one": new_adapter(wide, root / "one", 4, seed=1),
        "two": new_adapter(wide, root / "two", 17, seed=2, use_rslora=True, alpha=8),
        "three": save_adapter(root / "three", some, 3, alpha=32),
    }


@pytest.fixture(scope="module")
def expected(wide: Path, adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    """Greedy answers of transformers with merged weights, and of the base (""), to the same prompt."""
    root = tmp_path_factory.mktemp("merged")
    bench = Bench(wide)
    answers = {"": bench.generate(prompt_of(20), NUM_TOKENS)}
    for name, folder in adapters.items():
        bench.folder = merge(wide, folder, root / name)
        answers[name] = bench.generate(prompt_of(20), NUM_TOKENS)
    return answers


def with_adapters(folder: Path, adapters: dict[str, Path], **changes: object) -> Bench:
    given = tuple((name, str(path)) for name, path in adapters.items())
    return Bench(folder, replace(SMALL, adapters=given, **changes))  # type: ignore[arg-type]


def ask(bench: Bench, request_id: str, adapter: str, prompt: list[int] | None = None, **sampling: object) -> None:
    chosen = {"max_tokens": NUM_TOKENS} | sampling
    bench.engine.add(replace(bench.request(request_id, prompt or prompt_of(20), **chosen), adapter=adapter))


@pytest.fixture
def of_adapters(wide: Path, adapters: dict[str, Path]) -> Bench:
    return with_adapters(wide, adapters)


@pytest.mark.usefixtures("kernels")
def test_each_adapter_alone_gives_the_answer_of_merged_weights(
    of_adapters: Bench, expected: dict[str, list[int]]
) -> None:
    assert type(of_adapters.engine.runner) is NativeDecoderRunner
    for name, answer in expected.items():
        ask(of_adapters, name, name)
        of_adapters.finish()
        assert of_adapters.token_ids(name) == answer, name
    assert len({tuple(answer) for answer in expected.values()}) == len(expected)  # else the test proves nothing


def test_rows_of_several_adapters_and_of_the_base_run_in_one_step(
    of_adapters: Bench, expected: dict[str, list[int]]
) -> None:
    for turn in range(2):
        for name in expected:
            ask(of_adapters, f"{name} {turn}", name)
    of_adapters.finish()
    assert of_adapters.engine.stats().num_preemptions == 0
    for turn in range(2):
        for name, answer in expected.items():
            assert of_adapters.token_ids(f"{name} {turn}") == answer, name


@pytest.mark.parametrize(
    ("family", "runner"),
    [
        ("qwen3", (NativeDecoderRunner, DecoderRunner)),
        ("phi3", DecoderRunner),
        ("gemma3", DecoderRunner),
        ("gpt_neox", ModelRunner),
        ("deepseek_v3", LatentRunner),
        ("deepseek_v3", NativeLatentRunner),
        ("deepseek_v32", LatentRunner),
        ("glm4_moe", DecoderRunner),
        ("lfm2", HybridRunner),
        ("bloom", SequentialRunner),
    ],
)
def test_models_of_every_runner_take_adapters(
    family: str, runner: type, model_folder: ModelFolder, tmp_path: Path
) -> None:
    folder = model_folder(family, **(NATIVE_WIDTHS if runner is NativeLatentRunner else {}))
    adapter = save_adapter(tmp_path / "adapter", random_layers(folder, 4, is_served, seed=5), 4)
    bench = with_adapters(folder, {"one": adapter})
    assert isinstance(bench.engine.runner, runner)
    base = bench.generate(prompt_of(20), NUM_TOKENS)
    ask(bench, "base", "")
    ask(bench, "adapted", "one")
    ask(bench, "other", "one", prompt_of(9))
    bench.finish()
    bench.folder = merge(folder, adapter, tmp_path / "merged")
    assert bench.token_ids("base") == base
    assert bench.token_ids("adapted") == bench.generate(prompt_of(20), NUM_TOKENS) != base
    assert bench.token_ids("other") == bench.generate(prompt_of(9), NUM_TOKENS)


@pytest.mark.usefixtures("kernels")
def test_passes_side_by_side_have_adapters_of_their_own(
    wide: Path, adapters: dict[str, Path], expected: dict[str, list[int]]
) -> None:
    bench = with_adapters(wide, adapters, max_step_tokens=600)
    runner = bench.engine.runner
    assert isinstance(runner, NativeDecoderRunner)
    runner.micro_batches = MicroBatches(2)
    long = [token for number in range(10) for token in prompt_of(24, number)]
    for name in ("one", "", "two"):
        ask(bench, f"long {name}", name, long, max_tokens=2)
    bench.step()
    assert len(cut([ScheduledSequence(probe_sequence(long), 200)] * 3, 4)) > 1  # as the step before was
    bench.finish()
    for name in ("one", "", "two"):
        ask(bench, f"alone {name}", name, long, max_tokens=2, n=1)
        bench.finish()
        assert bench.token_ids(f"alone {name}") == bench.token_ids(f"long {name}")


def test_the_prefix_cache_is_apart_for_each_adapter(of_adapters: Bench, expected: dict[str, list[int]]) -> None:
    prompt = prompt_of(20)
    for name in expected:
        ask(of_adapters, name, name, prompt)
        of_adapters.finish()
        assert of_adapters.end(name).cached_tokens == 0, name
    ask(of_adapters, "again", "two", prompt)
    of_adapters.finish()
    assert of_adapters.end("again").cached_tokens == 16
    assert of_adapters.token_ids("again") == expected["two"]


def test_a_name_that_is_loaded_anew_with_other_weights_finds_nothing_of_the_old_ones(
    of_adapters: Bench, adapters: dict[str, Path], expected: dict[str, list[int]]
) -> None:
    ask(of_adapters, "old", "one")
    of_adapters.finish()
    of_adapters.engine.adapters.unload("one")
    of_adapters.engine.adapters.load("one", str(adapters["three"]))
    ask(of_adapters, "new", "one")
    of_adapters.finish()
    assert of_adapters.end("new").cached_tokens == 0
    assert of_adapters.token_ids("new") == expected["three"]


def test_adapters_come_and_go_while_others_run(
    wide: Path, adapters: dict[str, Path], expected: dict[str, list[int]]
) -> None:
    bench = Bench(wide)
    ask(bench, "base", "")
    bench.step(4)
    revisions = {name: bench.engine.adapters.load(name, str(path)) for name, path in adapters.items()}
    assert bench.engine.adapters.revisions == revisions and len(set(revisions.values())) == 3
    ask(bench, "one", "one")
    ask(bench, "two", "two")
    bench.step(4)
    bench.engine.cancel("one")
    bench.engine.adapters.unload("one")
    ask(bench, "three", "three")
    bench.engine.adapters.load("four", str(adapters["one"]))  # into the free slot
    ask(bench, "four", "four")
    bench.finish()
    answers = {"base": "", "two": "two", "three": "three", "four": "one"}
    assert {name: bench.token_ids(name) for name in answers} == {name: expected[of] for name, of in answers.items()}


def test_a_request_for_an_adapter_that_is_not_loaded_fails_and_says_so(of_adapters: Bench) -> None:
    of_adapters.engine.adapters.unload("one")
    ask(of_adapters, "late", "one")
    of_adapters.finish()
    end = of_adapters.end("late")
    assert isinstance(end, Failed)
    assert end.code == "adapter_unloaded" and "'one'" in end.message


def test_a_preempted_sequence_goes_on_with_its_adapter(
    wide: Path, adapters: dict[str, Path], expected: dict[str, list[int]]
) -> None:
    bench = with_adapters(wide, adapters, kv_memory_bytes=9 * 16 * 2 * 2 * 32 * 4)  # nine blocks of sixteen tokens
    bench.engine.scheduler.forecast.answers.share = 0.0  # it expects short answers, and is wrong
    for name in expected:
        ask(bench, name, name, max_tokens=100)
    bench.finish()
    assert bench.engine.stats().num_preemptions > 0
    for name, answer in expected.items():
        ask(bench, f"alone {name}", name, max_tokens=100)
        bench.finish()
        assert bench.token_ids(name) == bench.token_ids(f"alone {name}")
        assert bench.token_ids(name)[:NUM_TOKENS] == answer


def test_drafts_are_verified_with_the_adapter(
    wide: Path, adapters: dict[str, Path], expected: dict[str, list[int]]
) -> None:
    bench = with_adapters(wide, adapters, speculate=4)
    for name in expected:
        ask(bench, name, name)
    bench.finish()
    assert {name: bench.token_ids(name) for name in expected} == expected


@pytest.mark.parametrize("quantize", ["int8", "int4"])
def test_an_adapter_is_computed_beside_quantized_weights(quantize: str, wide: Path, tmp_path: Path) -> None:
    """The adapter's own rounding is none: logits move as far as they do over weights that are not quantized."""
    folder = new_adapter(wide, tmp_path / "adapter", 4, seed=1)
    bench = with_adapters(
        wide, {"one": folder}, quantization=quantization_named(quantize), dtype="float32", max_step_tokens=32
    )
    ask(bench, "base", "", max_tokens=1, logprobs=5)
    ask(bench, "one", "one", max_tokens=1, logprobs=5)
    bench.finish()
    base, one = (dict(bench.deltas(name)[0].logprobs[0].top) for name in ("base", "one"))
    assert base.keys() != one.keys()


def test_an_adapter_over_a_packed_checkpoint_gives_the_answer_of_its_twin_with_merged_weights(tmp_path: Path) -> None:
    packed, twin = save_twins(tmp_path, "llama", pack, PACKING)
    adapter = new_adapter(twin, tmp_path / "adapter", 4, seed=1)
    bench = with_adapters(packed, {"one": adapter})
    ask(bench, "base", "")
    ask(bench, "one", "one")
    bench.finish()
    bench.folder = twin
    assert bench.token_ids("base") == bench.generate(prompt_of(20), NUM_TOKENS)
    bench.folder = merge(twin, adapter, tmp_path / "merged")
    assert bench.token_ids("one") == bench.generate(prompt_of(20), NUM_TOKENS) != bench.token_ids("base")


def is_served(name: str) -> bool:
    """Latents are never expanded, and what weighs index heads is no product of its own."""
    return not name.endswith(("kv_b_proj", "weights_proj"))


def test_a_layer_that_is_not_computed_by_itself_takes_no_adapter(model_folder: ModelFolder, tmp_path: Path) -> None:
    folder = model_folder("deepseek_v3")
    adapter = new_adapter(folder, tmp_path / "adapter", seed=5)
    with pytest.raises(GivenAdapterFault, match=r"changes \S*\.kv_b_proj, .*; train it without this layer"):
        with_adapters(folder, {"one": adapter})


def test_a_fault_in_a_configured_adapter_names_it(wide: Path, tmp_path: Path) -> None:
    with pytest.raises(GivenAdapterFault, match="one=.* has no adapter_config.json"):
        with_adapters(wide, {"one": tmp_path})


def test_a_fault_in_a_later_adapter_leaves_the_others(of_adapters: Bench, tmp_path: Path) -> None:
    before = of_adapters.engine.adapters.revisions
    with pytest.raises(InvalidRequest, match="'four' cannot be loaded: .* is not a folder"):
        of_adapters.engine.adapters.load("four", str(tmp_path / "none"))
    with pytest.raises(InvalidRequest, match="'one' is loaded already"):
        of_adapters.engine.adapters.load("one", str(tmp_path))
    assert of_adapters.engine.adapters.revisions == before


def test_an_adapter_that_does_not_fit_leaves_nothing_to_the_next_one(
    of_adapters: Bench, adapters: dict[str, Path], expected: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    put, num_left = GroupedChange.put, iter(range(5))

    def failing(change: GroupedChange, *args: object) -> None:
        if next(num_left, None) is None:
            raise torch.OutOfMemoryError("full")
        put(change, *args)  # type: ignore[arg-type]

    engine = of_adapters.engine
    before = engine.runner.adapters.num_layouts  # type: ignore[union-attr]
    with monkeypatch.context() as patched, pytest.raises(InvalidRequest, match="does not fit"):
        patched.setattr(GroupedChange, "put", failing)
        engine.adapters.load("four", str(adapters["one"]))
    assert engine.runner.adapters.num_layouts > before  # type: ignore[union-attr]
    engine.adapters.load("five", str(adapters["three"]))  # of some of its layers only
    ask(of_adapters, "five", "five")
    of_adapters.finish()
    assert of_adapters.token_ids("five") == expected["three"]


@pytest.mark.parametrize("path", ["/" + "a" * 300, "/a\0b", "/" + "a/" * 2000])
def test_a_path_that_no_system_call_takes_is_refused(of_adapters: Bench, path: str) -> None:
    with pytest.raises(InvalidRequest, match="'four' cannot be loaded"):
        of_adapters.engine.adapters.load("four", path)
