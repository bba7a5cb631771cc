"""How much the engine takes on, from the operator's settings, the model's shape and the memory that is free."""

import os
from dataclasses import dataclass
from typing import Any

import torch

from worker.kv_cache import LayerShape
from worker.loader import SMALL_MODEL_PARAMETERS, EngineConfig, LoadedModel

GPU_MEMORY_SHARE = 0.9  # of what is free once the weights are loaded
CPU_MEMORY_SHARE = 0.25  # of what is free, at most
MIN_CPU_BYTES = 2**30
GPU_WORKSPACE_BYTES = 2 * 2**30  # activations and logits of the largest step, CUDA graphs


@dataclass(frozen=True, slots=True)
class Limits:
    max_num_seqs: int
    max_step_tokens: int
    max_burst_tokens: int  # of a step while a crowd waits
    max_chunk_pairs: int  # of a query and a key, in a prompt's chunk beside others that decode
    max_model_len: int
    num_blocks: int
    block_size: int


def choose_limits(loaded: LoadedModel, config: EngineConfig, shapes: list[LayerShape], num_parameters: int) -> Limits:
    """Raises ValueError when not even one sequence of the length asked for would fit."""
    is_gpu = loaded.device.type != "cpu"
    is_small = num_parameters < SMALL_MODEL_PARAMETERS
    max_num_seqs = config.max_num_seqs or (256 if is_gpu or is_small else 64)
    max_step_tokens = config.max_step_tokens or (4096 if is_gpu else 512)
    max_burst_tokens = config.max_step_tokens or (4096 if is_gpu else 1024)
    block_size = block_size_for(loaded.device)
    bytes_per_block = sum(shape.width for shape in shapes) * loaded.dtype.itemsize * block_size
    memory = config.kv_memory_bytes or kv_memory_bytes(loaded, num_parameters)
    max_model_len = loaded.card.max_model_len
    most_useful = max_num_seqs * -(-max_model_len // block_size)
    num_blocks = min(memory // max(bytes_per_block, 1), most_useful)
    if num_blocks * block_size < max_model_len:
        if config.max_model_len is not None:
            raise ValueError(
                f"max_model_len {max_model_len} needs more KV memory than the {memory} bytes there are; "
                f"{num_blocks * block_size} tokens fit."
            )
        max_model_len = num_blocks * block_size
    max_chunk_pairs = chunk_pairs(loaded.model, num_parameters, max_step_tokens)
    return Limits(
        max_num_seqs, max_step_tokens, max_burst_tokens, max_chunk_pairs, max_model_len, num_blocks, block_size
    )


def chunk_pairs(model: Any, num_parameters: int, max_step_tokens: int) -> int:
    """Pairs whose scores and sums cost what the matrix products of a full step do: so much may attention add to it."""
    text = model.config.get_text_config()
    return num_parameters * max_step_tokens // int(2 * text.num_hidden_layers * text.hidden_size)


def block_size_for(device: torch.device) -> int:
    """Tokens per KV block: what is shared is a multiple of it. A GPU's paged kernel takes no smaller pages than 256."""
    return 256 if device.type == "cuda" else 16


def kv_memory_bytes(loaded: LoadedModel, num_parameters: int) -> int:
    """What the KV cache may take. A GPU is the engine's own; on a CPU it gets as much as the weights."""
    if loaded.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(loaded.device)
        return max(0, int(free * GPU_MEMORY_SHARE) - GPU_WORKSPACE_BYTES)
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else "SC_PHYS_PAGES"  # macOS knows only all
    available = os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")
    return min(int(available * CPU_MEMORY_SHARE), max(MIN_CPU_BYTES, num_parameters * loaded.dtype.itemsize))
