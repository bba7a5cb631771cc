"""Attention over latents by the kernels, interpreted, beside that by torch: ragged steps and such as are recorded."""

from dataclasses import replace

import pytest
import torch

from tests.worker.attention.steps import CPU, rows_of
from tests.worker.interpreter import rounds_as_a_gpu
from worker.attention.kernel import StepTensors
from worker.attention.latent import kernel
from worker.attention.latent.attention import LatentAttention
from worker.attention.latent.index_keys import index_shape
from worker.attention.latent.kernel import KernelLatentAttention
from worker.attention.latent.selection import Selected
from worker.attention.latent.spec import LatentSpec
from worker.state.kv_cache import KVCache, LayerShape
from worker.state.scheduled_sequence import ScheduledSequence

__all__ = ["rounds_as_a_gpu"]
pytestmark = pytest.mark.usefixtures("rounds_as_a_gpu")
RANK, ROTATED, DIM, HEADS, INDEX_HEADS, SIZE = 24, 8, 16, 5, 6, 16
SPEC = LatentSpec(scale=0.3, rank=RANK, topk=12)
MIXED = [(60, 1), (40, 1), (3, 1), (20, 9), (0, 5)]
DECODES = [(60, 1), (30, 1), (5, 1)]


def new_cache(dtype: torch.dtype) -> KVCache:
    """Random numbers where nothing was written."""
    index_width, index_dtype = index_shape(DIM, dtype)
    cache = KVCache([LayerShape(1, RANK + ROTATED, index_width, index_dtype)], 32, SIZE, dtype, CPU)
    torch.manual_seed(0)
    cache.keys[0].copy_(torch.randn(cache.keys[0].shape))
    slots = torch.arange(32 * SIZE)
    index_keys = torch.randn(len(slots), DIM).to(dtype)
    whole = LatentAttention.__new__(LatentAttention)
    whole.kv_cache, whole.slots = cache, slots
    whole.write(0, cache.keys[0][0].view(-1, RANK + ROTATED).clone(), index_keys)
    return cache


class Inputs:
    """Random ones of a step."""

    def __init__(self, num_tokens: int, dtype: torch.dtype) -> None:
        torch.manual_seed(1)
        self.latents = torch.randn(num_tokens, RANK + ROTATED).to(dtype)
        self.queries = torch.randn(num_tokens, HEADS, RANK + ROTATED).to(dtype)
        self.index_keys = torch.randn(num_tokens, DIM).to(dtype)
        self.index_queries = torch.randn(num_tokens, INDEX_HEADS, DIM).to(dtype)
        self.weights = torch.randn(num_tokens, INDEX_HEADS)

    def padded(self, num_tokens: int) -> "Inputs":
        whole = Inputs(num_tokens, self.latents.dtype)
        for name, part in vars(self).items():
            getattr(whole, name)[: len(part)] = part
        return whole

    def run(
        self, attention: LatentAttention | KernelLatentAttention, spec: LatentSpec = SPEC
    ) -> tuple[Selected | None, torch.Tensor]:
        attention.write(0, self.latents, self.index_keys)
        selected = attention.select(0, self.index_queries, self.weights, spec)
        return selected, attention.attend(0, self.queries, selected, spec)


def recorded(cache: KVCache, rows: list[ScheduledSequence], num_tokens: int, num_seqs: int) -> KernelLatentAttention:
    """In buffers with room for more tokens and sequences; padding writes to the last block."""
    tensors = KernelLatentAttention.of_rows(cache, rows, CPU).tensors
    used, table = len(tensors.slots), torch.full((num_seqs, 6), 31, dtype=torch.int32)
    table[: len(rows), : tensors.block_table.shape[1]] = tensors.block_table
    return KernelLatentAttention(
        cache,
        StepTensors(
            torch.cat([tensors.slots, torch.full((num_tokens - used,), 31 * SIZE)]),
            torch.cat([tensors.query_starts, torch.full((num_seqs - len(rows),), used, dtype=torch.int32)]),
            torch.cat([tensors.num_keys, torch.zeros(num_seqs - len(rows), dtype=torch.int32)]),
            table,
            tensors.tile_rows,
            tensors.tile_starts,
        ),
    )


def check_same(found: tuple[Selected | None, torch.Tensor], expected: tuple[Selected | None, torch.Tensor]) -> None:
    """The same keys of each token, and about the same sums."""
    (selected, output), (own, exact) = found, expected
    assert (selected is None) == (own is None)
    if selected is not None and own is not None:
        assert torch.equal(selected.counts[: len(own.counts)], own.counts)
        for at, count in enumerate(own.counts.tolist()):
            assert selected.slots[at, :count].tolist() == own.slots[at, :count].tolist()
    bound = 1e-5 if output.dtype == torch.float32 else 0.03
    torch.testing.assert_close(output[: len(exact)].float(), exact.float(), atol=bound, rtol=bound)


@pytest.mark.parametrize("places", [MIXED, DECODES], ids=["mixed", "decodes"])
@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, topk=None), replace(SPEC, topk=64)], ids=["12", "all", "64"])
def test_a_ragged_step_is_computed_as_by_torch(places: list[tuple[int, int]], spec: LatentSpec) -> None:
    cache, inputs = new_cache(torch.float32), Inputs(sum(num for _, num in places), torch.float32)
    rows = rows_of(cache, places)
    expected = inputs.run(LatentAttention(cache, rows, CPU), spec)
    written = cache.keys[0].clone(), cache.values[0].clone()
    cache.keys[0].zero_()[:] = new_cache(torch.float32).keys[0]
    check_same(inputs.run(KernelLatentAttention.of_rows(cache, rows, CPU), spec), expected)
    assert torch.equal(cache.keys[0], written[0])
    assert torch.equal(cache.values[0], written[1])


def test_scores_in_pieces_select_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "MAX_ROW_SCORES", 3 * 64)
    monkeypatch.setattr("worker.kernels.gpu.latent.index_scores.FEW_TOKENS", 2)
    cache, inputs = new_cache(torch.float32), Inputs(sum(num for _, num in MIXED), torch.float32)
    rows = rows_of(cache, MIXED)
    expected = inputs.run(LatentAttention(cache, rows, CPU))
    check_same(inputs.run(KernelLatentAttention.of_rows(cache, rows, CPU)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_of_a_recorded_step_changes_nothing(dtype: torch.dtype) -> None:
    cache, inputs = new_cache(dtype), Inputs(len(DECODES), dtype)
    rows = rows_of(cache, DECODES)
    expected = inputs.run(KernelLatentAttention.of_rows(cache, rows, CPU))
    found = inputs.padded(8).run(recorded(cache, rows, 8, 6))
    check_same(found, expected)
    assert found[0] is not None
    assert found[0].counts.tolist() == [12, 12, 6, 0, 0, 0, 0, 0]


def test_a_recorded_step_of_short_sequences_attends_to_all_keys() -> None:
    """It selects, because longer ones may follow, and selects them all."""
    places = [(8, 1), (2, 1)]
    cache, inputs = new_cache(torch.float32), Inputs(2, torch.float32)
    rows = rows_of(cache, places)
    _, expected = inputs.run(LatentAttention(cache, rows, CPU))
    selected, output = inputs.run(recorded(cache, rows, 2, 2))
    assert selected is not None
    torch.testing.assert_close(output, expected)


def test_keys_in_8_bits_select_and_attend_nearly_as_by_torch() -> None:
    """Queries are rounded to 8 bits here too: where it differs, the scores were close."""
    cache, inputs = new_cache(torch.bfloat16), Inputs(sum(num for _, num in MIXED), torch.bfloat16)
    rows = rows_of(cache, MIXED)
    expected, _ = inputs.run(LatentAttention(cache, rows, CPU))
    written = cache.values[0].clone()
    found, _ = inputs.run(KernelLatentAttention.of_rows(cache, rows, CPU))
    assert found is not None and expected is not None
    assert torch.equal(found.counts, expected.counts)
    numbers = [written.view(torch.uint8), cache.values[0]]
    assert (numbers[0] != numbers[1]).float().mean() < 0.01
    same = [
        len({*found.slots[at, :count].tolist()} & {*expected.slots[at, :count].tolist()}) / count
        for at, count in enumerate(found.counts.tolist())
    ]
    assert min(same) > 0.7 and sum(same) / len(same) > 0.95, same
