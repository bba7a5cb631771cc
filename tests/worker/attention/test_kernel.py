"""The attention kernel, interpreted, in ragged and in recorded steps, and in models of every kind."""

from dataclasses import replace

import pytest
import torch

from tests.worker.attention.steps import CPU, SPEC, attended, gpu_order, new_cache, rows_of
from tests.worker.conftest import SMALL, ModelFolder
from tests.worker.interpreter import rounds_as_a_gpu
from worker.attention.kernel import KernelAttention, StepTensors, tile_table
from worker.attention.paged import PagedAttention
from worker.kernels.gpu.split_keys import choose_splits, splits_to_fill
from worker.models.loader import load
from worker.runners.base import AttentionMaker, ModelRunner
from worker.runners.choose import cache_to_try
from worker.runners.hybrid import HybridRunner, keeps_states
from worker.runners.layer_survey import survey_layers
from worker.runners.probe import PROBE_LENGTH, Unsupported, check_equal, stock_logits, use_paged_attention
from worker.state.kv_cache import FP8

__all__ = ["rounds_as_a_gpu"]
MIXED = [(90, 1), (17, 1), (20, 30), (0, 5)]  # two that decode, two chunks of prompts
WINDOWED = replace(SPEC, window=20, softcap=2.0, sinks=torch.tensor([0.5, -1.0, 2.0, 0.0]))
# plain; head norms; softcap and windows; windows; sinks; unequal sizes; convolutions and full attention
FAMILIES = ["llama", "qwen3", "gemma2", "gemma3", "gpt_oss", "deepseek_v3", "lfm2"]


def check_family(folder: ModelFolder, family: str, maker: AttentionMaker) -> None:
    """Raises Unsupported unless the model computes its own logits with this attention."""
    loaded = load(str(folder(family)), ("tiny",), SMALL, lambda stage, fraction: None)
    expected, layers = stock_logits(loaded.model), survey_layers(loaded.model, 256)
    use_paged_attention(loaded.model)
    cache = gpu_order(cache_to_try(loaded, layers, PROBE_LENGTH))
    runner: ModelRunner
    if keeps_states(loaded.model):
        runner = HybridRunner(loaded.model, cache, layers.places, maker)
    else:
        runner = ModelRunner(loaded.model, cache, maker)
    check_equal(runner, loaded.model, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_computes_its_own_logits_with_the_kernel(family: str, model_folder: ModelFolder) -> None:
    check_family(model_folder, family, KernelAttention.of_rows)


def test_a_kernel_that_sees_a_key_too_few_is_noticed(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    attend = KernelAttention.attend
    monkeypatch.setattr(
        KernelAttention, "attend", lambda self, at, query, spec: attend(self, at, query, replace(spec, window=11))
    )
    with pytest.raises(Unsupported, match="logits differ"):
        check_family(model_folder, "llama", KernelAttention.of_rows)


@pytest.mark.usefixtures("rounds_as_a_gpu")
@pytest.mark.parametrize("spec", [SPEC, WINDOWED], ids=["plain", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, FP8], ids=str)
def test_a_mixed_step_gives_what_torch_gives(dtype: torch.dtype, spec: object) -> None:
    caches = [new_cache(dtype) for _ in range(2)]
    rows = rows_of(caches[0], MIXED)
    makers = (KernelAttention.of_rows, PagedAttention)
    ours, expected = (attended(maker(cache, rows, CPU), 37, spec) for maker, cache in zip(makers, caches, strict=True))
    torch.testing.assert_close(ours, expected, atol=2e-3 if dtype == FP8 else 2e-6, rtol=0)
    for pools in zip(caches[0].keys + caches[0].values, caches[1].keys + caches[1].values, strict=True):
        assert torch.equal(*(pool.float() for pool in pools))


def test_a_recorded_step_has_room_for_drafts_chunks_and_padding() -> None:
    cache = new_cache()
    rows = rows_of(cache, [(40, 1), (30, 3), (20, 10)])
    expected = attended(PagedAttention(cache, rows, CPU), 14)
    table = torch.full((5, 4), 31, dtype=torch.int32)  # of a spare block; the last two rows are padding
    for at, row in enumerate(rows):
        blocks = row.sequence.block_ids
        table[at, : len(blocks)] = torch.tensor(blocks)
    tiles = torch.tensor([*tile_table([(2, 10)], 4), (-1, 0), (-1, 7)], dtype=torch.int32)
    tensors = StepTensors(
        slots=torch.zeros(16, dtype=torch.long),  # keys are in the cache already
        query_starts=torch.tensor([0, 1, 4, 14, 14, 14], dtype=torch.int32),
        num_keys=torch.tensor([41, 33, 30, 1, 1], dtype=torch.int32),
        block_table=table,
        tile_rows=tiles[:, 0].contiguous(),
        tile_starts=tiles[:, 1].contiguous(),
        tile_queries=4,
    )
    torch.manual_seed(1)
    query = torch.randn(1, 4, 14, 16)[0].transpose(0, 1)
    query = torch.cat([query, torch.full((2, 4, 16), torch.nan)])  # tokens of no sequence
    output = KernelAttention(cache, tensors, max_queries=3).attend(0, query, SPEC)
    torch.testing.assert_close(output[:14], expected, atol=2e-6, rtol=0)


def test_long_tiles_of_a_chunk_are_launched_first() -> None:
    assert tile_table([(2, 5), (4, 1)], 2) == [(4, 0), (2, 4), (2, 2), (2, 0)]


@pytest.mark.parametrize(
    ("asked", "splits"),
    [
        ((1, 8, 36864, 132), 33),  # 264 programs
        ((1, 8, 2048, 132), 16),  # no fewer than 128 keys each
        ((1, 1, 131072, 132), 64),
        ((32, 8, 2048, 132), 1),  # 256 programs already
        ((4, 8, 36864, 132), 8),
        ((1, 8, 12, 132), 1),
    ],
)
def test_keys_are_split_until_the_gpu_is_full(asked: tuple[int, int, int, int], splits: int) -> None:
    assert choose_splits(*asked) == splits


def test_one_long_sequence_among_many_short_ones_is_split_too() -> None:
    assert choose_splits(64, 8, 36864, 132, is_uneven=True) == 3
    assert choose_splits(32, 8, 36864, 132, is_uneven=True) == 3
    assert splits_to_fill(32, 8, 132) == 1  # the short ones are not,
    assert splits_to_fill(64, 8, 132) > 3  # unless there are more than run at a time
