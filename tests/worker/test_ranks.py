"""The processes that share one model."""

import pytest
import torch

from worker import ranks


def test_more_ranks_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="OMNI_TENSOR_PARALLEL=2 needs as many GPUs; there are 1"):
        ranks.our_ranks(2)
