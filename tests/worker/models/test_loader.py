"""The dtype of a loaded model."""

from dataclasses import replace

import torch

from tests.worker.conftest import SMALL, ModelFolder
from worker.models.loader import cast, load


def test_rotary_frequencies_keep_their_precision(model_folder: ModelFolder) -> None:
    folder = model_folder("llama", max_position_embeddings=131072)
    for config in (replace(SMALL, dtype="bfloat16"), SMALL):
        model = load(str(folder), ("tiny",), config, lambda what, share: None).model
        assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    positions = torch.tensor([[100_000]])
    exact = model.model.rotary_emb(torch.zeros(1), positions)
    again = cast(model, torch.bfloat16).model.rotary_emb(torch.zeros(1), positions)
    assert all(torch.equal(*pair) for pair in zip(exact, again, strict=True))
