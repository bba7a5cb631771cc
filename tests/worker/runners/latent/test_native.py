"""The C kernels' runner over latents: transformers' own logits and tokens, in chunks, batches and drafts."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from tests.worker.runners.latent.models import NATIVE_WIDTHS, runner_of, steps, stock, stock_model
from tests.worker.runners.latent.test_runner import LENGTHS, MODELS, MOST
from worker.kernels.native import NoKernels
from worker.models.loader import EngineConfig
from worker.runners.latent.native import NativeLatentRunner
from worker.runners.latent.runner import LatentRunner
from worker.runners.probe import Unsupported
from worker.runners.recorded import native

pytestmark = pytest.mark.usefixtures("kernels")
MODES = {"in turn": SMALL, "overlapped": replace(SMALL, overlap=True), "drafted": replace(SMALL, speculate=4)}
REPEATED = prompt_of(12) * 5  # which drafts continue


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_logits_of_every_step_are_those_of_the_stock_model(name: str) -> None:
    family, changes = MODELS[name]
    own: dict[str, Any] = {"index_head_dim": 48} if "index_topk" in changes else {}  # more than is rotated
    model = stock_model(family, **(NATIVE_WIDTHS | own | changes))
    texts = [prompt_of(length) for length in LENGTHS]
    expected = [stock(model, text) for text in texts]
    runner = runner_of(model, kind=NativeLatentRunner)
    found = list(steps(runner, texts, 23, num_decoded=6))
    assert len(found) == 7 * len(LENGTHS)
    for at, position, logits in found:
        torch.testing.assert_close(logits, expected[at][position], atol=MOST, rtol=0)


@torch.inference_mode()
def test_an_earlier_token_s_latent_matters() -> None:
    """The control of the test above: with one of them gone, logits are others."""
    model, text = stock_model("deepseek_v3", **NATIVE_WIDTHS), prompt_of(40)
    runner = runner_of(model, kind=NativeLatentRunner)
    found = steps(runner, [text], 39, num_decoded=1)
    *_, (_, _, before) = [next(found)]
    torch.testing.assert_close(before, stock(model, text)[38], atol=MOST, rtol=0)
    for pool in runner.kv_cache.keys:
        pool[0, :, 3] = 0
    _, position, logits = next(found)
    assert (logits - stock(model, text)[position]).abs().max() > 100 * MOST


@pytest.mark.parametrize("mode", MODES)
def test_answers_of_a_batch_are_those_of_generate(mode: str, model_folder: ModelFolder) -> None:
    bench = Bench(model_folder("deepseek_v3", **NATIVE_WIDTHS), MODES[mode])
    assert type(bench.engine.runner) is NativeLatentRunner
    bench.engine.warm_up(lambda stage, share: None)
    prompts = {"a": REPEATED, "b": [*REPEATED[:40], *prompt_of(9)], "c": prompt_of(5)}
    for request_id, prompt in prompts.items():
        bench.add(request_id, prompt)
        bench.step(5)
    bench.finish()
    for request_id, prompt in prompts.items():
        assert bench.token_ids(request_id) == bench.generate(prompt)
    assert bench.engine.stats().draft_tokens > 0 or mode != "drafted"


def test_steps_in_which_torch_may_select_keys_are_not_recorded(model_folder: ModelFolder) -> None:
    folder = model_folder("deepseek_v32", **NATIVE_WIDTHS, index_head_dim=48, dtype=torch.bfloat16)
    bench = Bench(folder, EngineConfig(max_num_seqs=4, max_step_tokens=64, dtype="bfloat16", threads=2))
    runner = bench.engine.runner
    assert isinstance(runner, NativeLatentRunner)
    bench.engine.warm_up(lambda stage, share: None)
    bench.add("r", prompt_of(40))
    bench.finish()
    assert runner.steps is not None and not runner.steps.programs


def test_other_widths_and_machines_without_a_compiler_stay_with_torch(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unsupported, match="widths"):
        runner_of(stock_model("deepseek_v3"), kind=NativeLatentRunner)

    def refuse(dtype: torch.dtype) -> None:
        raise NoKernels("there is no C compiler")

    monkeypatch.setattr(native, "load_kernels", refuse)
    bench = Bench(model_folder("deepseek_v3", **NATIVE_WIDTHS), SMALL)
    assert type(bench.engine.runner) is LatentRunner
