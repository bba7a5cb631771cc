"""The attention kernel against attention written plainly in float64, over memory that is NaN where nobody wrote."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.worker.kernels.gpu.attention_case import Case, Step

pytest.importorskip("triton")
ERRORS = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}  # rounding of the output and of the weights

DECODES = Case()
SPLIT = Case(num_splits=3)  # the sequence of one key leaves two splits empty
CHUNKS = Case(num_queries=(33, 7), num_keys=(70, 7), tile_queries=16)
DRAFTS = Case(num_queries=(4, 4, 2), num_keys=(40, 4, 90), num_splits=2)
ALL = {"window": 20, "softcap": 3.0, "has_sinks": True}


@pytest.mark.parametrize(
    "case",
    [
        DECODES,
        SPLIT,
        CHUNKS,
        DRAFTS,
        replace(SPLIT, dtype=torch.bfloat16),
        replace(SPLIT, dtype=torch.float16),
        replace(CHUNKS, dtype=torch.bfloat16),
        replace(CHUNKS, num_splits=2),
        replace(SPLIT, page=32),
        replace(SPLIT, page=64),
        replace(CHUNKS, page=64),
    ],
    ids=repr,
)
def test_queries_attend_to_all_keys_up_to_their_own(case: Case) -> None:
    assert_right(case)


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("case", [SPLIT, CHUNKS, DRAFTS], ids=["decodes", "chunks", "drafts"])
@pytest.mark.parametrize("scores", [{"window": 20}, {"window": 1}, {"softcap": 3.0}, {"has_sinks": True}, ALL], ids=str)
def test_scores_are_windowed_squeezed_and_share_with_sinks(case: Case, scores: dict[str, object], splits: int) -> None:
    assert_right(replace(case, num_splits=splits, **scores))  # type: ignore[arg-type]


def test_a_long_sequence_is_split_more_often_than_short_ones() -> None:
    assert_right(Case(num_queries=(1, 1, 1), num_keys=(40, 4100, 1), num_splits=3, usual_splits=1))


@pytest.mark.parametrize(
    "changes", [{}, {"num_splits": 2}, {"softcap": 3.0, "has_sinks": True}, {"is_fp8": True}], ids=str
)
def test_wide_tiles_read_the_keys_that_all_rows_see_without_masks(changes: dict[str, object]) -> None:
    case = Case(num_queries=(70, 3), num_keys=(250, 130), tile_queries=64, page=64, dtype=torch.float16)
    assert_right(replace(case, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("window", [63, 64, 65, 89, 90, 91])
def test_a_window_may_end_anywhere_in_a_block(window: int) -> None:
    assert_right(Case(num_queries=(1,), num_keys=(90,), window=window, num_splits=2))


@pytest.mark.parametrize(
    ("key_dim", "value_dim"), [(64, 64), (80, 80), (96, 96), (128, 128), (192, 128), (256, 256), (576, 512), (8, 8)]
)
@pytest.mark.parametrize(
    "case", [replace(SPLIT, num_splits=2), replace(CHUNKS, num_queries=(5, 7))], ids=["few", "many"]
)
def test_heads_have_any_size(case: Case, key_dim: int, value_dim: int) -> None:
    assert_right(replace(case, key_dim=key_dim, value_dim=value_dim))


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (3, 1), (12, 2), (20, 1)])
def test_any_number_of_heads_shares_keys(heads: int, kv_heads: int) -> None:
    assert_right(replace(DRAFTS, heads=heads, kv_heads=kv_heads))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", [SPLIT, replace(CHUNKS, window=20)], ids=["decodes", "chunks"])
def test_an_fp8_cache_is_read_with_its_scales(case: Case, dtype: torch.dtype) -> None:
    assert_right(
        replace(case, dtype=dtype, is_fp8=True), ERRORS[torch.bfloat16 if dtype == torch.bfloat16 else torch.float16]
    )


def test_a_launch_for_few_queries_leaves_sequences_with_more_to_tiles() -> None:
    step = Step(Case(num_queries=(1, 5, 1), num_keys=(20, 9, 3)))
    tiles = replace(step.tiles(), num_queries=1)
    output = step.attended(tiles)
    assert output[1:6].isnan().all() and not output[[0, 6]].isnan().any()


def test_parts_of_split_keys_take_no_memory_for_the_tokens_of_other_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    """One decode beside a chunk of 4,096 tokens would take gigabytes."""
    step = Step(Case(num_queries=(1, 1, 40), num_keys=(40, 33, 90), num_splits=3))
    output, sizes, empty = step.attended(replace(step.tiles(), count=2, num_queries=1), num_splits=1), [], torch.empty

    def counted(*shape: int, **options: Any) -> torch.Tensor:
        made = empty(*shape, **options)
        sizes.append(made.numel())
        return made

    monkeypatch.setattr(torch, "empty", counted)
    split = step.attended(replace(step.tiles(), count=2, num_queries=1))
    assert sum(sizes) == 3 * 2 * step.case.heads * (step.case.key_dim + 1)
    assert (split[:2] - output[:2]).abs().max() < ERRORS[torch.float32]
    assert split[2:].isnan().all()


def test_a_row_of_padding_reads_the_spare_block_and_harms_nobody() -> None:
    step = Step(Case(num_queries=(1, 1), num_keys=(40, 1), num_splits=2))
    step.table[1] = step.table[1, 0]
    assert (step.attended()[0] - step.expected()[0]).abs().max() < ERRORS[torch.float32]


@pytest.mark.parametrize("wrong", [{"window": 19}, {"window": None}, {"softcap": 4.0}, {"sinks": None}], ids=str)
def test_a_wrong_score_is_noticed(wrong: dict[str, object]) -> None:
    step = Step(replace(DRAFTS, **ALL))  # type: ignore[arg-type]
    assert (step.attended(**wrong) - step.expected()).abs().max() > 1e-3


def test_a_wrong_key_is_noticed() -> None:
    step = Step(SPLIT)
    expected = step.expected()
    step.table[2, :2] = step.table[2, [1, 0]]
    assert (step.attended() - expected).abs().max() < ERRORS[torch.float32]  # the order of keys has no effect,
    step.table[2, 0] = step.table[2, 2]
    assert (step.attended() - expected).abs().max() > 1e-3  # the keys have


def test_a_pool_may_have_more_numbers_than_32_bits_can_count() -> None:
    step = Step(Case(num_queries=(1,), num_keys=(20,), page=64, is_fp8=True))
    expected, last = step.expected(), 2**31 // step.keys[:, 0].numel() + 1
    for name in ("keys", "values"):
        pool = getattr(step, name)
        large = torch.empty(last + 1, *pool.transpose(0, 1).shape[1:], dtype=torch.uint8)  # memory that is not touched
        large[last] = pool.view(torch.uint8)[:, step.table[0, 0]]
        setattr(step, name, large.view(pool.dtype).transpose(0, 1))
    step.table[0, 0] = last
    assert (step.attended() - expected).abs().max() < ERRORS[torch.float16]


def assert_right(case: Case, tolerance: float | None = None) -> None:
    step = Step(case)
    error = (step.attended().double() - step.expected()).abs().max().item()
    assert error < (tolerance or ERRORS[case.dtype])
