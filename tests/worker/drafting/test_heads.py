"""Heads guess what they compute, over prompts in chunks, drafts accepted and rejected, and preemption."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from common.wire import Finished
from tests.deepseek import V3, V32, numbers, save_deepseek, save_unpacked
from tests.deepseek_kin import GLM5
from tests.models import VOCAB_SIZE, save_model
from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from tests.worker.drafting.head_models import (
    EAGLE3,
    KNOWING,
    WIDTH,
    Reference,
    eagle3_reference,
    eagle3_tensors,
    knowing_tensors,
    layer_reference,
    mtp_reference,
    save_eagle3,
    save_mtp,
)
from tests.worker.runners.latent.models import NATIVE_WIDTHS
from worker.drafting.choose import DraftFault, choose_guesser
from worker.drafting.heads import HeadGuesser
from worker.drafting.lookup import PromptLookup
from worker.models.loader import EngineConfig
from worker.runners.decoder import DecoderRunner
from worker.runners.probe import probe_sequence
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.sequence import Sequence

NUM_AHEAD = 3
LIMIT = 1e-4  # of the difference of a logit in float32 from float64
SAMPLINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0, "seed": 5},
    {"temperature": 0.7, "top_p": 0.8, "seed": 6},
    {"logprobs": 2},
]


class Spied:
    """The head of an engine, and the logits of all its guesses."""

    def __init__(self, bench: Bench) -> None:
        guesser = bench.engine.drafter.guesser
        assert isinstance(guesser, HeadGuesser)
        self.guesser = guesser
        self.seen: list[tuple[list[int], list[int], list[torch.Tensor]]] = []  # tokens, guesses, logits after each
        self._pick, self._guess = guesser._pick, guesser.guess
        self._logits: dict[Sequence, list[torch.Tensor]] = {}
        guesser._pick, guesser.guess = self.pick, self.guess  # type: ignore[method-assign]

    def pick(self, logits: torch.Tensor, sequences: list[Sequence], ahead: int) -> torch.Tensor:
        for sequence, own in zip(sequences, logits, strict=True):
            self._logits.setdefault(sequence, []).append(own.double())
        return self._pick(logits, sequences, ahead)

    def guess(self, wanted: list[tuple[Sequence, int]]) -> list[list[int]]:
        self._logits = {}
        guesses = self._guess(wanted)
        for (sequence, num), guess in zip(wanted, guesses, strict=True):
            assert len(guess) in {1, num}  # one where no block was free for more
            self.seen.append((list(sequence.token_ids), guess, self._logits[sequence]))
        return guesses


def deviation(spied: Spied, reference: Reference) -> float:
    """The largest difference of a logit from the reference, over all guesses."""
    assert spied.seen
    worst = 0.0
    for token_ids, guess, logits in spied.seen:
        expected = reference.of_guesses(token_ids, guess[:-1])
        worst = max(worst, max((a - b).abs().max().item() for a, b in zip(logits, expected, strict=True)))
    return worst


def with_eagle3(model: Path, head: Path, **changes: Any) -> Bench:
    return Bench(model, replace(SMALL, speculate=NUM_AHEAD, draft_model=str(head), **changes))


def seeing_one_token(bench: Bench) -> Bench:
    """The same engine, whose model's attention gives nothing."""
    runner = bench.engine.runner
    assert isinstance(runner, DecoderRunner)
    runner.layers = [
        replace(layer, attention_out=lambda attended: attended.new_zeros(len(attended), WIDTH))
        for layer in runner.layers
    ]
    return bench


@torch.inference_mode()
def following_tokens(bench: Bench) -> list[int]:
    """The token that the model gives after each of its tokens."""
    runner = bench.engine.runner
    sequence = probe_sequence([0])
    sequence.block_ids = runner.kv_cache.pool.allocate(1)
    found = []
    for token_id in range(VOCAB_SIZE):
        sequence.token_ids = [token_id]
        found.append(int(runner.forward([ScheduledSequence(sequence, 1)]).argmax()))
    runner.kv_cache.free(sequence)
    return found


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("heads")


CASES: dict[str, dict[str, Any]] = {
    "eagle3": {},
    "eagle3 whose residual is normed": {"norm_before_residual": True},
    "deepseek_v3": {},
    "glm4_moe": {},
    "glm4_moe_lite": {},
    "glm_moe_dsa": {"index_topk": 12},
    "deepseek_v3, by kernels": NATIVE_WIDTHS,
    "glm4_moe, by kernels": {"head_dim": 32, "use_qk_norm": False},
    "V3 in fp8": {"version": V3},
    "V3.2 in fp8": {"version": V32, "index_topk": 12},
    "GLM 5.2 in fp8": {"version": GLM5, "index_topk": 12, "index_topk_freq": 2},
}


def case_of(case: str, places: Path, model_folder: ModelFolder) -> tuple[Path, EngineConfig, Reference]:
    """A model's folder, settings with the head, and what the head computes."""
    config = replace(SMALL, speculate=NUM_AHEAD)
    if "version" in CASES[case]:
        folder = save_deepseek(places / case, **CASES[case])
        deeper = save_unpacked(folder, places / f"{case}, deeper", with_mtp=True)
        plain = save_unpacked(folder, places / f"{case}, unpacked")
        return folder, config, layer_reference(plain, deeper, numbers(folder), "model.layers.3.")
    if not case.startswith("eagle3"):
        folder = places / case
        if not folder.exists():
            save_mtp(folder, case.partition(",")[0], **CASES[case])
        return folder, config, mtp_reference(folder)
    tensors = eagle3_tensors()
    head = save_eagle3(places / case, tensors, **CASES[case])
    folder = model_folder()
    reference = eagle3_reference(folder, tensors, norms_residual="norm_before_residual" in CASES[case])
    return folder, replace(config, draft_model=str(head)), reference


@pytest.mark.parametrize("case", CASES)
def test_its_logits_are_those_of_the_head_written_out(case: str, places: Path, model_folder: ModelFolder) -> None:
    """Prompts longer than a step, several sequences, sampled and greedy."""
    folder, config, reference = case_of(case, places, model_folder)
    bench = Bench(folder, config)
    spied = Spied(bench)
    bench.add("long", prompt_of(37), max_tokens=8, ignore_eos=True)
    bench.add("short", prompt_of(3), max_tokens=12, ignore_eos=True)
    bench.add("drawn", prompt_of(18), max_tokens=10, ignore_eos=True, temperature=1.0, seed=3)
    bench.finish()
    assert len(spied.seen) > 10 and bench.engine.drafter.is_on
    assert deviation(spied, reference) < LIMIT


def test_the_comparison_notices_another_head(places: Path, model_folder: ModelFolder) -> None:
    bench = with_eagle3(model_folder(), save_eagle3(places / "control", eagle3_tensors()))
    spied = Spied(bench)
    bench.add("r", prompt_of(9), max_tokens=6, ignore_eos=True)
    bench.finish()
    swapped = eagle3_tensors()
    for name in ("q", "k", "v"):
        weight = swapped[f"midlayer.self_attn.{name}_proj.weight"]
        weight.copy_(weight.roll(WIDTH, dims=1))  # the embedding in the place of the hidden state
    assert deviation(spied, eagle3_reference(model_folder(), swapped)) > 0.1


def test_preempted_sequences_are_guessed_as_before(places: Path, model_folder: ModelFolder) -> None:
    folder, config, reference = case_of("eagle3", places, model_folder)
    block = 2 * 2 * 2 * 8 * 4 * 16 + 2 * 2 * 8 * 4 * 16  # bytes of 16 tokens, in the model's and in the head's cache
    bench = Bench(folder, replace(config, kv_memory_bytes=block * 7, max_model_len=96))
    bench.engine.scheduler.forecast.answers.share = 0.0  # it expects short answers, and is wrong
    spied = Spied(bench)
    for seed in range(3):
        bench.add(f"r{seed}", prompt_of(20 + seed, seed), max_tokens=40, ignore_eos=True)
    bench.finish()
    assert bench.engine.stats().num_preemptions > 0
    assert bench.engine.drafter.is_on
    assert deviation(spied, reference) < LIMIT


def test_while_no_guesses_are_asked_for_tokens_are_read_many_at_a_time(
    places: Path, model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, config, reference = case_of("eagle3", places, model_folder)
    bench = Bench(folder, config)
    spied, drafter = Spied(bench), bench.engine.drafter
    passes: list[int] = []
    run = spied.guesser.head.run

    def noted(token_ids: torch.Tensor, *args: Any) -> torch.Tensor:
        passes.append(len(token_ids))
        return run(token_ids, *args)

    monkeypatch.setattr(spied.guesser.head, "run", noted)
    drafter.num_ahead = 0
    for seed in range(2):
        bench.add(f"r{seed}", prompt_of(7, seed), max_tokens=60, ignore_eos=True)
    bench.step(40)
    assert not spied.seen and len(passes) <= 3
    drafter.num_ahead = NUM_AHEAD
    bench.finish()
    assert deviation(spied, reference) < LIMIT


def test_a_prefix_in_the_cache_is_in_the_heads_cache_too(places: Path, model_folder: ModelFolder) -> None:
    """The second prompt continues the first answer, whose blocks are not computed again."""
    folder, config, reference = case_of("eagle3", places, model_folder)
    bench = Bench(folder, config)
    bench.add("first", prompt_of(40), max_tokens=20, ignore_eos=True)
    bench.finish()
    spied = Spied(bench)
    bench.add("second", [*prompt_of(40), *bench.token_ids("first")[:5], 7, 8], max_tokens=8, ignore_eos=True)
    bench.finish()
    end = bench.end("second")
    assert isinstance(end, Finished)
    assert end.cached_tokens >= 32
    assert deviation(spied, reference) < LIMIT


def test_a_head_that_knows_what_follows_is_accepted_always(places: Path, model_folder: ModelFolder) -> None:
    """The model sees only the last token, so that one token follows each."""
    plain = seeing_one_token(Bench(model_folder(), SMALL))
    following = following_tokens(plain)
    head = save_eagle3(places / "knowing", knowing_tensors(following), **KNOWING)
    bench = seeing_one_token(with_eagle3(model_folder(), head))
    for each in (plain, bench):
        for seed in range(3):
            each.add(f"r{seed}", prompt_of(6 + 9 * seed, seed), max_tokens=41, ignore_eos=True)
        each.finish()
    for seed in range(3):
        assert bench.token_ids(f"r{seed}") == plain.token_ids(f"r{seed}")
    drafter = bench.engine.drafter
    assert drafter.num_accepted == drafter.num_drafted > 60


def test_an_mtp_head_that_agrees_with_its_model_is_mostly_accepted(tmp_path: Path) -> None:
    """The control is a random one."""
    accepted: dict[str, float] = {}
    for kind in ("agreeing", "random"):
        folder = save_deepseek(tmp_path / kind, mtp=kind, layer_gain=0.04)  # type: ignore[arg-type]
        bench = Bench(folder, replace(SMALL, speculate=2))
        bench.add("r", prompt_of(40), max_tokens=60, ignore_eos=True)
        bench.finish()
        accepted[kind] = bench.engine.drafter.num_accepted / bench.engine.drafter.num_drafted
    assert accepted["random"] < 0.1 < 0.5 < accepted["agreeing"]


@pytest.mark.parametrize("case", CASES)
def test_tokens_are_those_without_speculation(case: str, places: Path, model_folder: ModelFolder) -> None:
    folder, config, _ = case_of(case, places, model_folder)
    plain, guessing = Bench(folder, SMALL), Bench(folder, config)
    for bench in (plain, guessing):
        for seed, sampling in enumerate(SAMPLINGS):
            bench.add(f"r{seed}", prompt_of(5 + 11 * seed, seed), max_tokens=24, ignore_eos=True, **sampling)
        bench.finish()
    for seed in range(len(SAMPLINGS)):
        assert guessing.token_ids(f"r{seed}") == plain.token_ids(f"r{seed}")
        assert guessing.end(f"r{seed}") == plain.end(f"r{seed}")
    assert guessing.engine.drafter.is_on and guessing.engine.drafter.num_drafted > 20


SPELLINGS: dict[str, Callable[[str], str]] = {
    "with the model's beginning": lambda name: name if name in {"d2t", "t2d"} else f"model.{name}",
    "with a numbered layer": lambda name: name.replace("midlayer.", "layers.0."),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_other_spellings_of_an_eagle3_head_are_the_same_head(
    spelling: str, places: Path, model_folder: ModelFolder
) -> None:
    tensors = {SPELLINGS[spelling](name): tensor for name, tensor in eagle3_tensors().items()}
    bench = with_eagle3(model_folder(), save_eagle3(places / spelling, tensors))
    spied = Spied(bench)
    bench.add("r", prompt_of(9), max_tokens=6, ignore_eos=True)
    bench.finish()
    assert deviation(spied, eagle3_reference(model_folder(), eagle3_tensors())) < LIMIT


def test_speculators_configuration_has_the_layer_one_level_down(places: Path, model_folder: ModelFolder) -> None:
    """Its layers are counted as inputs, so that 1, 1, 2 are those of the other form's 0, 0, 1."""
    inner = {name: value for name, value in EAGLE3.items() if name not in {"architectures", "draft_vocab_size"}}
    outer = {"architectures": ["Eagle3Speculator"], "speculators_model_type": "eagle3", "draft_vocab_size": 200}
    own = outer | {"transformer_layer_config": inner, "eagle_aux_hidden_state_layer_ids": [1, 1, 2]}
    folder = save_eagle3(places / "speculators", eagle3_tensors())
    (folder / "config.json").write_text(json.dumps(own))
    bench = with_eagle3(model_folder(), folder)
    spied = Spied(bench)
    bench.add("r", prompt_of(9), max_tokens=6, ignore_eos=True)
    bench.finish()
    assert deviation(spied, eagle3_reference(model_folder(), eagle3_tensors())) < LIMIT


Spoiled = dict[str, torch.Tensor | None]  # what replaces a tensor; None: it is left out
REFUSALS: dict[str, tuple[dict[str, Any], Spoiled, str]] = {
    "width": ({"target_hidden_size": 64}, {}, "hidden states of 64 numbers, and the model's have 32"),
    "vocabulary": ({"vocab_size": 500}, {}, "vocabulary of 500, and the model's has 320"),
    "layers": ({"num_hidden_layers": 2}, {}, "heads of one Llama layer"),
    "a part less": ({}, {"midlayer.hidden_norm.weight": None}, "lack midlayer.hidden_norm.weight"),
    "a part more": ({}, {"fc_norm.weight": torch.zeros(32)}, "not computed here, fc_norm.weight"),
    "shape": ({}, {"fc.weight": torch.zeros(32, 64)}, "fc.weight has the shape"),
    "tokens": ({}, {"d2t": torch.arange(200)}, "names tokens that the model does not have"),
    "no tokens": ({}, {"d2t": None}, "200 of 320 tokens"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_head_that_does_not_fit_the_model_is_refused_by_the_settings_name(
    case: str, tmp_path: Path, model_folder: ModelFolder
) -> None:
    changes, spoiled, text = REFUSALS[case]
    tensors = {name: tensor for name, tensor in (eagle3_tensors() | spoiled).items() if tensor is not None}
    folder = save_eagle3(tmp_path, tensors, **changes)
    with pytest.raises(DraftFault, match=f"^OMNI_DRAFT_MODEL={folder}: .*{text}"):
        with_eagle3(model_folder(), folder)


def test_a_head_without_safetensors_is_refused(tmp_path: Path, model_folder: ModelFolder) -> None:
    save_eagle3(tmp_path, eagle3_tensors())
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(DraftFault, match="no .safetensors file"):
        with_eagle3(model_folder(), tmp_path)


def test_heads_and_draft_models_guess_for_a_model_on_one_gpu_only(places: Path, model_folder: ModelFolder) -> None:
    folder, config, _ = case_of("glm4_moe", places, model_folder)
    loaded = Bench(folder, SMALL).loaded
    assert isinstance(choose_guesser(loaded, replace(config, num_ranks=2)), PromptLookup)
    loaded = Bench(model_folder(), SMALL).loaded
    for draft in (save_eagle3(places / "ranks", eagle3_tensors()), model_folder(seed=7)):
        with pytest.raises(DraftFault, match="on one GPU only"):
            choose_guesser(loaded, replace(config, draft_model=str(draft), num_ranks=2))


def test_an_mtp_head_of_another_form_leaves_prompt_lookup(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_model(tmp_path, "llama")
    file = tmp_path / "model.safetensors"
    save_file(load_file(file) | {"model.mtp_linear_proj.0.weight": torch.zeros(32, 64)}, file, {"format": "pt"})
    bench = Bench(tmp_path, replace(SMALL, speculate=2))
    assert isinstance(bench.engine.drafter.guesser, PromptLookup)
    assert "MTP head is not used: ERNIE's are not computed here" in caplog.text


def test_an_mtp_head_that_lacks_a_part_leaves_prompt_lookup(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_mtp(tmp_path, "deepseek_v3")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.2.self_attn.o_proj.weight"]
    save_file(tensors, file, {"format": "pt"})
    bench = Bench(tmp_path, replace(SMALL, speculate=2))
    assert isinstance(bench.engine.drafter.guesser, PromptLookup)
    assert "MTP head is not used" in caplog.text and "o_proj" in caplog.text


def test_an_mtp_layer_that_only_the_configuration_names_is_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_mtp(tmp_path, "deepseek_v3")
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file({name: own for name, own in tensors.items() if ".layers.2." not in name}, file, {"format": "pt"})
    bench = Bench(tmp_path, replace(SMALL, speculate=2))
    assert isinstance(bench.engine.drafter.guesser, PromptLookup)
    assert "names an MTP layer that is not in the files" in caplog.text


def test_without_speculation_no_head_is_loaded(places: Path, model_folder: ModelFolder) -> None:
    folder, _, _ = case_of("glm4_moe", places, model_folder)
    assert not Bench(folder, SMALL).engine.drafter.is_on
