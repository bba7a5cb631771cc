"""Rounded inputs: what the probe takes for rounding of a checkpoint that is made for it."""

from functools import partial
from pathlib import Path

import pytest
import torch

from tests.worker.models.damaged import loaded
from tests.worker.models.formats import test_compressed
from tests.worker.models.formats.twins import save_twins
from worker.kernels.packed.input_rounding import inputs_rounded, rounded_inputs
from worker.runners.probe import MAX_DEVIATION, MOST_EXPLAINED, deviation_of, probe_tokens, stock_logits


@pytest.mark.parametrize(("kind", "error"), [("int8", 0.5 / 127), ("fp8", 1 / 16)])
def test_a_token_s_largest_number_stays_and_others_move_by_less_than_half_a_code(kind: str, error: float) -> None:
    inputs = torch.randn(3, 5, 64) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
    found = rounded_inputs(inputs, kind)  # type: ignore[arg-type]
    peaks = inputs.abs().amax(dim=-1, keepdim=True)
    torch.testing.assert_close(found.abs().amax(dim=-1, keepdim=True), peaks)
    assert ((found - inputs).abs() / peaks).max() <= error
    assert not torch.equal(found, inputs)


@pytest.mark.parametrize(("kind", "rounds"), [("w8a8", True), ("fp8 dynamic", True), ("w4a16", False)])
@torch.inference_mode()
def test_the_probe_allows_for_rounded_inputs_where_a_checkpoint_has_them(
    tmp_path: Path, kind: str, rounds: bool
) -> None:
    pack = partial(test_compressed.pack, kind=kind)
    folder, _ = save_twins(tmp_path, "llama", pack, test_compressed.packing_of(kind), num_hidden_layers=1)
    model = loaded(folder, dtype="float32").model
    expected = stock_logits(model)
    with inputs_rounded(model):
        found = model(input_ids=probe_tokens(model)[None], use_cache=False).logits[0, -1]
    deviation = deviation_of(found, expected.logits)
    assert (deviation > MAX_DEVIATION[torch.float32]) is rounds
    assert deviation <= expected.most <= MOST_EXPLAINED
    assert (expected.most > MAX_DEVIATION[torch.float32]) is rounds
