"""The memory that a model will take on a device, from its files' headers."""

from dataclasses import replace

import pytest
import torch

from tests.worker.conftest import SMALL, ModelFolder
from worker.fit.plan import Machine
from worker.kernels.experts.layer import has_experts
from worker.models.dtypes import count_parameters
from worker.models.experts.place import BESIDE_BYTES
from worker.models.loader import load
from worker.unloaded.sizes import size_of


@pytest.mark.parametrize(
    ("experts", "room", "stay"),
    [("ram", 10**9, True), ("auto", 1000, True), ("auto", 10**9, False), ("gpu", 1000, False)],
)
def test_experts_that_stay_in_host_memory_take_none_of_the_gpu(
    model_folder: ModelFolder, experts: str, room: int, stay: bool
) -> None:
    folder = model_folder("glm4_moe")
    machine = Machine(torch.device("cuda"), "a GPU", BESIDE_BYTES + room, 0)
    config = replace(SMALL, experts=experts, gpu_memory_utilization=1.0, dtype="float32")
    model = load(str(folder), ("m",), SMALL, lambda what, share: None).model
    of_experts = sum(count_parameters(module) for module in model.modules() if has_experts(module))
    expected = count_parameters(model) - (of_experts if stay else 0)
    assert size_of(str(folder), config, machine).weights == 4 * expected


def test_on_a_cpu_all_of_a_model_is_in_its_memory(model_folder: ModelFolder) -> None:
    machine = Machine(torch.device("cpu"), "CPU", 10**9, 0)
    sizes = {
        experts: size_of(str(model_folder("glm4_moe")), replace(SMALL, experts=experts), machine).weights
        for experts in ("auto", "ram")
    }
    assert sizes["auto"] == sizes["ram"]
