"""The probe compares a runner with the stock model."""

from types import SimpleNamespace

import pytest
import torch

from tests.worker.conftest import SMALL, ModelFolder
from tests.worker.gpu_stand_ins import PAGE
from worker.models.loader import load
from worker.runners.graphs import GraphedDecoderRunner
from worker.runners.layer_survey import survey_layers
from worker.runners.probe import PROBE_SEQS, Unsupported, check_equal, stock_logits, use_paged_attention
from worker.state.kv_cache import KVCache


@pytest.mark.usefixtures("flash")
def test_the_probe_detects_a_kernel_that_is_wrong_for_the_second_sequence(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(str(model_folder()), ("tiny",), SMALL, lambda what, share: None).model
    expected = stock_logits(model)
    layers = survey_layers(model, PAGE)
    use_paged_attention(model)
    cache = KVCache(layers.shapes, PROBE_SEQS, PAGE, torch.float32, torch.device("cpu"))
    runner = GraphedDecoderRunner(model, cache, layers.specs)
    check_equal(runner, model, expected)
    monkeypatch.setattr(
        "worker.attention.varlen.kernel_options", lambda *asked: SimpleNamespace(window=(-1, 0), num_splits=None)
    )
    with pytest.raises(Unsupported, match="differ"):
        check_equal(runner, model, expected)
