"""How much one step takes on."""

import pytest
import torch

from worker.runners.limits import burst_size

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("num_parameters", "num_tokens"), [(6_000_000, 4096), (12_500_000, 2000), (146_000_000, 1024)])
def test_on_a_cpu_a_step_of_a_crowd_is_larger_for_a_smaller_model(num_parameters: int, num_tokens: int) -> None:
    assert burst_size(CPU, num_parameters, 512) == num_tokens


def test_on_a_gpu_a_step_of_a_crowd_is_like_others() -> None:
    assert burst_size(GPU, 6_000_000, 4096) == 4096
