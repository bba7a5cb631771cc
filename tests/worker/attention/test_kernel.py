"""Every kind of model on the ragged engine computes its own logits with the attention kernel, here interpreted."""

import pytest

from tests.worker.conftest import SMALL, ModelFolder
from worker.attention.kernel import KernelAttention, tile_table
from worker.models.loader import load
from worker.runners.base import ModelRunner
from worker.runners.choose import cache_to_try
from worker.runners.layer_survey import survey_layers
from worker.runners.probe import PROBE_LENGTH, check_equal, stock_logits, use_paged_attention

FAMILIES = ["llama", "gemma2", "gpt_oss", "deepseek_v3"]  # plain; softcap and windows; sinks; unequal sizes


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_computes_its_own_logits_with_the_kernel(family: str, model_folder: ModelFolder) -> None:
    loaded = load(str(model_folder(family)), ("tiny",), SMALL, lambda stage, fraction: None)
    expected, layers = stock_logits(loaded.model), survey_layers(loaded.model, 256)
    use_paged_attention(loaded.model)
    cache = cache_to_try(loaded, layers, PROBE_LENGTH)
    cache.keys, cache.values = ([on_gpu(pool) for pool in pools] for pools in (cache.keys, cache.values))
    check_equal(ModelRunner(loaded.model, cache, KernelAttention.of_rows), loaded.model, expected)


def on_gpu(pool):
    """The pool in a GPU's order of memory."""
    return pool.transpose(0, 1).contiguous().transpose(0, 1)


def test_long_tiles_of_a_chunk_are_launched_first() -> None:
    assert tile_table([(2, 5), (4, 1)], 2) == [(4, 0), (2, 4), (2, 2), (2, 0)]
