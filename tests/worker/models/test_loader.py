"""The dtype and the attention of a loaded model."""

from dataclasses import replace

import pytest
import torch
from transformers import Gemma2PreTrainedModel

from tests.worker.conftest import SMALL, Bench, ModelFolder, prompt_of
from worker.models.dtypes import cast
from worker.models.loader import load
from worker.runners.decoder import DecoderRunner


def test_rotary_frequencies_keep_their_precision(model_folder: ModelFolder) -> None:
    folder = model_folder("llama", max_position_embeddings=131072)
    for config in (replace(SMALL, dtype="bfloat16"), SMALL):
        model = load(str(folder), ("tiny",), config, lambda what, share: None).model
        assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    positions = torch.tensor([[100_000]])
    exact = model.model.rotary_emb(torch.zeros(1), positions)
    again = cast(model, torch.bfloat16).model.rotary_emb(torch.zeros(1), positions)
    assert all(torch.equal(*pair) for pair in zip(exact, again, strict=True))


def test_a_softcap_is_computed_where_transformers_would_choose_torchs_attention(
    model_folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", True)  # as in transformers 5.17
    bench = Bench(model_folder("gemma2"))
    assert isinstance(bench.engine.runner, DecoderRunner)
    bench.add("r", prompt_of(20), max_tokens=2)
    bench.finish()
    assert len(bench.token_ids("r")) == 2
