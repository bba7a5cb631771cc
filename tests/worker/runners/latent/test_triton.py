"""The GPU's runner over latents in Triton's interpreter: transformers' own logits, in ragged and in recorded steps."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.worker.conftest import prompt_of
from tests.worker.interpreter import rounds_as_a_gpu
from tests.worker.runners.latent.models import CPU, YARN, steps, stock, stock_model
from worker.runners.candidates import latent_candidates
from worker.runners.latent.survey import survey_latents
from worker.runners.recorded.recordings import Recordings
from worker.state.kv_cache import KVCache

pytest.importorskip("triton")
runners = pytest.importorskip("worker.runners.latent.triton")
kernel = pytest.importorskip("worker.attention.latent.kernel")

__all__ = ["rounds_as_a_gpu"]
pytestmark = pytest.mark.usefixtures("rounds_as_a_gpu")
GPU = torch.device("cuda")
TOPK, MOST = 16, 1e-4
SPARSE = {"index_topk": TOPK, "index_n_heads": 16}
LENGTHS = (23, TOPK + 2, 5)


def triton_runner(model: Any) -> Any:
    layers = survey_latents(model, 64, torch.float32)
    assert layers is not None
    cache = KVCache(layers.shapes, 24, 16, torch.float32, CPU)
    return runners.TritonLatentRunner(model, cache, layers.specs, kernel.KernelLatentAttention.of_rows)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("deepseek_v3", {"q_lora_rank": None, "rope_interleave": False, "rope_parameters": YARN}),
        ("deepseek_v32", SPARSE),
        ("glm_moe_dsa", SPARSE | {"indexer_types": ["full", "shared"]}),
    ],
)
@torch.inference_mode()
def test_logits_of_every_step_are_those_of_the_stock_model(
    family: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads are attended to in pieces of eight tokens."""
    monkeypatch.setattr(runners, "PIECE_TOKENS", 8)
    model = stock_model(family, **changes)
    texts = [prompt_of(length) for length in LENGTHS]
    expected = [stock(model, text) for text in texts]
    found = list(steps(triton_runner(model), texts, 20, num_decoded=1))
    assert len(found) == 6
    for at, position, logits in found:
        torch.testing.assert_close(logits, expected[at][position], atol=MOST, rtol=0)


def rerun(function: Callable[[], None]) -> Callable[[], None]:
    """In the place of a CUDA graph: the same launches over the same buffers."""
    with torch.inference_mode():
        function()
    return torch.inference_mode()(function)


@torch.inference_mode()
def test_recorded_steps_select_for_whatever_contexts_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of few tokens beside two that see more than are selected, and a sequence that is padding."""
    monkeypatch.setattr("worker.runners.recorded.shapes.MIXED_TOKENS", ())
    monkeypatch.setattr("worker.runners.recorded.shapes.NUM_SEQS", (4,))
    model = stock_model("deepseek_v32", **SPARSE)
    runner, recordings = triton_runner(model), Recordings()
    recordings.record(runner, runner._run, 4, 64, rerun, lambda what, share: None)
    assert [step.shape.num_tokens for step in recordings.steps] == [4]
    texts = [prompt_of(length) for length in LENGTHS]
    expected = [stock(model, text) for text in texts]
    replayed, replay = [], recordings.replay

    def noted(*given: Any) -> Any:
        replayed.append(replay(*given))
        return replayed[-1]

    monkeypatch.setattr(recordings, "replay", noted)
    runner.recordings = recordings
    for at, position, logits in steps(runner, texts, 64, num_decoded=2):
        torch.testing.assert_close(logits, expected[at][position], atol=MOST, rtol=0)
    assert [found is not None for found in replayed] == [False, True, True]


def test_a_gpu_with_triton_tries_the_kernels_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.runners.candidates.uses_kernels", lambda device: False)
    assert [kind.__name__ for kind, _ in latent_candidates(GPU)] == ["LatentRunner"]
    monkeypatch.setattr("worker.runners.candidates.uses_kernels", lambda device: True)
    assert [kind.__name__ for kind, _ in latent_candidates(GPU)] == ["TritonLatentRunner", "LatentRunner"]
