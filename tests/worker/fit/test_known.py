"""Models that `omni fit` knows by name are those that were released under it."""

import pytest
import torch

from worker.fit.checkpoint import parameters, read
from worker.fit.survey import widest

RELEASED = {  # billions of parameters without MTP layers, and layers and heads that keep keys and values
    "deepseek-v3.2": (671.9, None),
    "deepseek-r1": (671.0, None),
    "gpt-oss-120b": (116.8, (36, 8, 64)),
    "qwen3-235b": (235.1, (94, 4, 128)),
    "glm-4.5-air": (106.9, (46, 8, 128)),
}


@pytest.mark.parametrize("name", RELEASED)
def test_a_known_model_has_the_parameters_and_heads_of_its_release(name: str) -> None:
    checkpoint, (billions, heads) = read(name), RELEASED[name]
    assert round(sum(parameters(checkpoint).values()) / 1e9, 1) == billions
    if heads is not None:
        layers, num_heads, width = heads
        kept = sum(layer.token_bytes(torch.bfloat16) for layer in widest(checkpoint.model))
        assert kept == layers * num_heads * 2 * width * torch.bfloat16.itemsize
