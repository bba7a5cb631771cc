"""How much the engine takes on, from the operator's settings, the model's shape and the memory that is free."""

from dataclasses import dataclass
from typing import Any

import torch

from common.process.machine_memory import available_bytes
from worker.models.config_numbers import largest
from worker.models.loader import SMALL_MODEL_PARAMETERS, EngineConfig, LoadedModel
from worker.sampling.speculation import MAX_DRAFTED
from worker.state.kv_cache import LayerShape

GPU_MEMORY_SHARE = 0.9  # of what is free once the weights are loaded
STATES_SHARE = 0.5  # of the KV cache's memory that states may take, where a model has such
CPU_MEMORY_SHARE = 0.25  # of what is available, at most
MIN_CPU_BYTES = 2**30
GPU_WORKSPACE_BYTES = 2**30  # CUDA graphs, libraries' own buffers, what the allocator cannot use
MAX_TOKENS_READ = 16384  # with images at once, for which room is set aside
LOGITS_COPIES = 6  # float32, that sampling holds at once
BURST_FLOPS = 5e10  # of a step while a crowd waits, on a CPU: about 70 ms of one core that multiplies bf16
MIN_BURST_TOKENS = 1024
MAX_BURST_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Limits:
    max_num_seqs: int
    max_step_tokens: int
    max_burst_tokens: int  # of a step while a crowd waits
    max_chunk_pairs: int  # of a query and a key, in a prompt's chunk beside others that decode
    max_model_len: int
    num_blocks: int
    block_size: int


def choose_limits(
    loaded: LoadedModel, config: EngineConfig, shapes: list[LayerShape], num_parameters: int, state_bytes: int = 0
) -> Limits:
    """`state_bytes`: what a sequence takes beside its keys and values.

    Raises ValueError when not even one sequence of the length asked for would fit.
    """
    max_num_seqs, max_step_tokens = step_size(loaded, config, num_parameters)
    max_burst_tokens = config.max_step_tokens or burst_size(loaded.device, num_parameters, max_step_tokens)
    block_size = block_size_for(loaded.device)
    bytes_per_block = sum(shape.width for shape in shapes) * loaded.dtype.itemsize * block_size
    memory = config.kv_memory_bytes or kv_memory_bytes(loaded, config, num_parameters)
    num_kept = 1 if loaded.device.type == "cuda" else 0  # for rows that pad a recorded step
    if state_bytes:  # twice: as it is stacked with others, each is there once more
        max_num_seqs = max(1, min(max_num_seqs, int(memory * STATES_SHARE) // (2 * state_bytes)))
        memory = max(0, memory - max_num_seqs * 2 * state_bytes)
    max_model_len = loaded.card.max_model_len
    most_useful = max_num_seqs * -(-max_model_len // block_size) + num_kept
    num_blocks = min(memory // max(bytes_per_block, 1), most_useful)
    num_tokens = max(0, num_blocks - num_kept) * block_size
    if num_tokens < max_model_len:
        if config.max_model_len is not None:
            raise ValueError(
                f"max_model_len {max_model_len} needs more KV memory than the {memory} bytes there are; "
                f"{num_tokens} tokens fit."
            )
        if num_tokens == 0:
            raise ValueError(
                f"of the memory beside the weights, {memory} bytes are left for keys and values, and one block of "
                f"{block_size} tokens takes {bytes_per_block}; a smaller model or a larger GPU is needed."
            )
        max_model_len = num_tokens
    max_chunk_pairs = chunk_pairs(loaded.model, num_parameters, max_step_tokens)
    return Limits(
        max_num_seqs, max_step_tokens, max_burst_tokens, max_chunk_pairs, max_model_len, num_blocks, block_size
    )


def step_size(loaded: LoadedModel, config: EngineConfig, num_parameters: int) -> tuple[int, int]:
    """Sequences that run together, and tokens of one step."""
    is_gpu = loaded.device.type != "cpu"
    is_small = num_parameters < SMALL_MODEL_PARAMETERS
    max_num_seqs = config.max_num_seqs or (256 if is_gpu or is_small else 64)
    return max_num_seqs, config.max_step_tokens or (4096 if is_gpu else 512)


def burst_size(device: torch.device, num_parameters: int, max_step_tokens: int) -> int:
    """Tokens of a step while a crowd waits. A small model reads so many that the next tokens of those who decode, which
    each step computes, sends and stores, are the smaller part of it."""
    if device.type != "cpu":
        return max_step_tokens
    return int(max(MIN_BURST_TOKENS, min(MAX_BURST_TOKENS, BURST_FLOPS / (2 * num_parameters))))


def chunk_pairs(model: Any, num_parameters: int, max_step_tokens: int) -> int:
    """Pairs whose scores and sums cost what the matrix products of a full step do: so much may attention add to it."""
    text = model.config.get_text_config()
    return num_parameters * max_step_tokens // int(2 * text.num_hidden_layers * text.hidden_size)


def block_size_for(device: torch.device) -> int:
    """Tokens per KV block: what is shared is a multiple of it. A GPU's paged kernel takes no smaller pages than 256."""
    return 256 if device.type == "cuda" else 16


def kv_memory_bytes(loaded: LoadedModel, config: EngineConfig, num_parameters: int) -> int:
    """What the KV cache may take. A GPU is the engine's own; on a CPU it gets as much as the weights."""
    if loaded.device.type == "cuda":
        torch.cuda.empty_cache()  # what loading and probing left in the allocator is free
        free, _ = torch.cuda.mem_get_info(loaded.device)
        return max(0, int(free * GPU_MEMORY_SHARE) - workspace_bytes(loaded, config, num_parameters))
    return min(int(available_bytes() * CPU_MEMORY_SHARE), max(MIN_CPU_BYTES, num_parameters * loaded.dtype.itemsize))


def workspace_bytes(loaded: LoadedModel, config: EngineConfig, num_parameters: int) -> int:
    """What the largest step takes beside the weights and the cache: its widest layer, and the logits of all rows."""
    text = loaded.model.config.get_text_config()
    max_num_seqs, max_step_tokens = step_size(loaded, config, num_parameters)
    widest = largest(text, "intermediate_size") or 4 * text.hidden_size
    num_tokens = max(max_step_tokens, max_num_seqs)
    if loaded.images is not None:  # a prompt is read in one piece up to its last image
        num_tokens = max(num_tokens, min(loaded.card.max_model_len, MAX_TOKENS_READ))
    activations: int = num_tokens * (4 * widest + 8 * text.hidden_size) * loaded.dtype.itemsize
    num_logits: int = (max_num_seqs + (MAX_DRAFTED if config.speculate else 0)) * text.vocab_size
    return GPU_WORKSPACE_BYTES + activations + num_logits * LOGITS_COPIES * torch.float32.itemsize
