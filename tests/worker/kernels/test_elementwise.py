"""The operators between matrix products."""

import torch

from worker.kernels.elementwise import rotate, rotated


def test_the_rotation_for_compilers_equals_the_one_in_place() -> None:
    wide = torch.randn(5, 12 * 16)
    heads, cos, sin = wide[:, : 8 * 16].view(5, 8, 16), torch.randn(5, 1, 16), torch.randn(5, 1, 16)
    out_of_place = rotated(heads, cos, sin)
    assert torch.allclose(out_of_place, rotate(heads, cos, sin), atol=1e-6)
