"""Where the routed experts of a sparse model stand on a machine with a GPU: there, or in host memory beside it."""

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from common.model.folder import size_of_weights
from worker.kernels.experts.layer import has_experts
from worker.models.config_fields import TOP_K_FIELDS, largest
from worker.models.model_files import file_of

if TYPE_CHECKING:
    from worker.models.loader import EngineConfig

logger = logging.getLogger(__name__)

COUNTS = ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts")  # of configurations
BESIDE_BYTES = 4 * 2**30  # of a GPU's memory, for a step and the least of keys and values


def home_of(model_path: str, model_config: Any, config: "EngineConfig", device: torch.device) -> torch.device:
    """The device that weights are loaded to: the CPU where experts stay there; the rest is moved then."""
    if device.type != "cuda" or config.num_ranks > 1:
        return device
    free, total = torch.cuda.mem_get_info(device)
    room = int(total * config.gpu_memory_utilization) - (total - free) - BESIDE_BYTES
    config_file = file_of(model_path, "config.json")  # in the hub's cache for a hub id
    size = size_of_weights(model_path) or (size_of_weights(str(config_file.parent)) if config_file else 0)
    if not experts_stay(model_config, config, size, room):
        return device
    logger.info("%.1f GiB of weights, and room for %.1f on the GPU: experts stay in host memory", gib(size), gib(room))
    return torch.device("cpu")


def experts_stay(model_config: Any, config: "EngineConfig", size: int, room: int) -> bool:
    """Whether experts stay in host memory beside a GPU with `room` for weights, of which there are `size` bytes."""
    return is_sparse(model_config) and (config.experts == "ram" or (config.experts == "auto" and size > room))


def is_sparse(model_config: Any) -> bool:
    """Whether the configuration has routed experts."""
    return any((largest(model_config.get_text_config(), name) or 0) > 1 for name in COUNTS)


def check_choice(model_config: Any) -> None:
    """Raises ValueError for a configuration by which a token cannot choose its experts, or what it attends to."""
    text = model_config.get_text_config()
    num_experts = max((largest(text, name) or 0 for name in COUNTS), default=0)
    top_ks = ((name, largest(text, name)) for name in TOP_K_FIELDS)
    field, chosen = next(((name, number) for name, number in top_ks if number is not None), ("", 1))
    num_groups = getattr(text, "n_group", None)
    if num_experts > 1 and not 1 <= chosen <= num_experts:
        wrong = f"{field}={chosen}, and each token takes 1 to {num_experts} experts"
    elif num_experts > 1 and isinstance(num_groups, int) and (num_groups < 1 or num_experts % num_groups):
        wrong = f"n_group={num_groups}, and its {num_experts} experts cannot be cut into so many groups"
    elif isinstance(topk := getattr(text, "index_topk", None), int) and topk < 1:
        wrong = f"index_topk={topk}, and each token attends to 1 or more"
    else:
        return
    raise ValueError(f"its config.json has {wrong}; copy or download it again.")


def gib(num_bytes: int) -> float:
    return num_bytes / 2**30


@torch.no_grad()
def move_rest(model: Any, home: torch.device, device: torch.device) -> Any:
    """The model with all weights but those of routed experts moved from `home` to a device, if that is another one.

    What modules share, they still share.
    """
    if home == device:
        return model
    moved: dict[int, Any] = {}
    kept: list[torch.Tensor] = []  # until the end: another tensor might get the id of one that is gone
    for module in model.modules():
        if has_experts(module):
            continue
        for name, parameter in list(module.named_parameters(recurse=False)):
            if id(parameter) not in moved:
                kept.append(parameter)
                moved[id(parameter)] = nn.Parameter(parameter.to(device), requires_grad=False)
            setattr(module, name, moved[id(parameter)])
        for name, buffer in list(module.named_buffers(recurse=False)):
            if id(buffer) not in moved:
                kept.append(buffer)
                moved[id(buffer)] = buffer.to(device)
            setattr(module, name, moved[id(buffer)])
    return model
