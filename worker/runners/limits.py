"""The size of steps and of the KV cache, from the settings, the model's shape and the free memory."""

from dataclasses import dataclass
from typing import Any

import torch

from common.process.machine_memory import available_bytes, total_bytes
from worker.models.config_fields import largest
from worker.models.dtypes import SMALL_MODEL_PARAMETERS
from worker.models.formats.reader import mapped_bytes
from worker.models.loader import FP8_KV, EngineConfig, LoadedModel
from worker.state.kv_cache import LayerShape

STATES_SHARE = 0.5  # of the KV cache's memory, for states where a model has them
CPU_MEMORY_SHARE = 0.25  # of the available memory, at most
MIN_CPU_BYTES = 2**30
GPU_WORKSPACE_BYTES = 2**30  # CUDA graphs, buffers of libraries, fragmentation
MAX_IMAGE_PROMPT = 16384  # tokens up to the last image, for whose single pass memory is reserved
MAX_DRAFTED = 48  # draft tokens a step, over all sequences; with more the forward pass becomes compute-bound
LOGITS_COPIES = 6  # in float32, that sampling holds at once
BURST_FLOPS = 5e10  # of a step while many prompts wait, on a CPU: about 70 ms of one core in bf16
MIN_BURST_TOKENS = 1024
MAX_BURST_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a step and of the KV cache."""

    max_num_seqs: int
    max_step_tokens: int
    max_burst_tokens: int  # of a step while many prompts wait
    max_chunk_pairs: int  # query-key pairs of a prompt chunk in a step with sequences that decode
    max_model_len: int
    num_blocks: int
    block_size: int
    capacity: int = 0  # the most blocks that the cache may ever have: more are of no use, or memory ends
    num_kept: int = 0  # blocks that padding rows of a recorded step write to
    bytes_per_block: int = 0
    state_bytes: int = 0  # of all sequences, besides keys and values

    @property
    def least_blocks(self) -> int:
        """A sequence of the longest length fits."""
        return -(-self.max_model_len // self.block_size) + self.num_kept

    def kv_bytes(self, num_blocks: int) -> int:
        """Memory of a cache of so many blocks."""
        return num_blocks * self.bytes_per_block + self.state_bytes


def choose_limits(
    loaded: LoadedModel,
    config: EngineConfig,
    shapes: list[LayerShape],
    num_parameters: int,
    state_bytes: int = 0,
    draft_token_bytes: int = 0,
) -> Limits:
    """`state_bytes`: memory of a sequence besides its keys and values; `draft_token_bytes`: of a token's in a second
    cache with as many blocks.

    Raises ValueError if not even one sequence of the requested length fits.
    """
    max_num_seqs, max_step_tokens = step_size(loaded, config, num_parameters)
    max_burst_tokens = config.max_step_tokens or burst_size(loaded.device, num_parameters, max_step_tokens)
    block_size = block_size_for(loaded.device)
    bytes_per_token = sum(shape.token_bytes(kv_dtype(loaded, config)) for shape in shapes) + draft_token_bytes
    bytes_per_block = bytes_per_token * block_size
    memory = config.kv_memory_bytes or kv_memory_bytes(loaded, config, num_parameters)
    num_kept = 1 if loaded.device.type == "cuda" else 0
    if state_bytes:  # twice, because a state exists twice while it is stacked with others
        max_num_seqs = max(1, min(max_num_seqs, int(memory * STATES_SHARE) // (2 * state_bytes)))
    all_states = max_num_seqs * 2 * state_bytes
    memory = max(0, memory - all_states)
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
                f"{memory} bytes are left for keys and values when the weights are loaded, and the least, "
                f"{1 + num_kept} blocks of {block_size} tokens, takes {(1 + num_kept) * bytes_per_block}; a "
                "smaller model or more memory is needed."
            )
        max_model_len = num_tokens
    max_chunk_pairs = chunk_pairs(loaded.model, num_parameters, max_step_tokens)
    return Limits(
        max_num_seqs,
        max_step_tokens,
        max_burst_tokens,
        max_chunk_pairs,
        max_model_len,
        num_blocks,
        block_size,
        capacity=max(num_blocks, min(most_useful, most_blocks(loaded, bytes_per_block, draft_token_bytes))),
        num_kept=num_kept,
        bytes_per_block=bytes_per_block,
        state_bytes=all_states,
    )


def most_blocks(loaded: LoadedModel, bytes_per_block: int, draft_token_bytes: int) -> int:
    """As many as all memory of the machine or card holds, where blocks get theirs later; else none beyond the first."""
    if loaded.device.type == "cpu":
        return total_bytes() // max(bytes_per_block, 1)
    if loaded.arena is None or not loaded.arena.is_elastic or draft_token_bytes:  # caches of drafts have all at once
        return 0
    return int(torch.cuda.mem_get_info(loaded.device)[1] // max(bytes_per_block, 1))


def step_size(loaded: LoadedModel, config: EngineConfig, num_parameters: int) -> tuple[int, int]:
    """The most sequences and the most tokens of one step."""
    is_gpu = loaded.device.type != "cpu"
    is_small = num_parameters < SMALL_MODEL_PARAMETERS
    max_num_seqs = config.max_num_seqs or (256 if is_gpu or is_small else 64)
    return max_num_seqs, config.max_step_tokens or (4096 if is_gpu else 512)


def burst_size(device: torch.device, num_parameters: int, max_step_tokens: int) -> int:
    """The most tokens of a step while many prompts wait.

    With a small model they are so many that the decoding sequences, whose tokens each step also computes, sends and
    stores, are the smaller part of the step.
    """
    if device.type != "cpu":
        return max_step_tokens
    return int(max(MIN_BURST_TOKENS, min(MAX_BURST_TOKENS, BURST_FLOPS / (2 * num_parameters))))


def chunk_pairs(model: Any, num_parameters: int, max_step_tokens: int) -> int:
    """Query-key pairs whose attention costs as much as one full step's matmuls; the cap for a prompt chunk."""
    text = model.config.get_text_config()
    return num_parameters * max_step_tokens // int(text.num_hidden_layers * pair_products(text))


def pair_products(text: Any) -> int:
    """Multiplications in one layer that a query and a key take. Where keys are selected, all others are only scored."""
    if (rank := largest(text, "kv_lora_rank")) is None:
        return int(2 * text.hidden_size)
    if (index_heads := largest(text, "index_n_heads")) is not None:
        return index_heads * int(text.index_head_dim)
    return int(text.num_attention_heads * (2 * rank + text.qk_rope_head_dim))


def attention_numbers(text: Any) -> int:
    """Of a token in one layer's attention, that a step holds at once beside what is as wide as hidden states.

    Over latents: queries, their products with the keys' matrix, alone and beside their rotated part, and twice what
    they attend to, before and after heads and tokens change places.
    """
    if (rank := largest(text, "kv_lora_rank")) is None:
        return 0
    own = int(text.qk_nope_head_dim + text.qk_rope_head_dim + text.v_head_dim)
    index = (largest(text, "index_n_heads") or 0) * (largest(text, "index_head_dim") or 0)
    return int(text.num_attention_heads * (own + 4 * rank + text.qk_rope_head_dim)) + index


def block_size_for(device: torch.device) -> int:
    """Tokens per KV block; prefixes are shared in multiples of it. A GPU's kernel reads a block at a time."""
    return 64 if device.type == "cuda" else 16


def kv_dtype(loaded: LoadedModel, config: EngineConfig) -> torch.dtype:
    """The dtype of keys and values in the cache."""
    return torch.float8_e4m3fn if config.kv_dtype == FP8_KV else loaded.dtype


def kv_memory_bytes(loaded: LoadedModel, config: EngineConfig, num_parameters: int) -> int:
    """Memory for the KV cache: on a GPU the rest of this process's share, on a CPU as much as the weights take.

    Raises ValueError if the share of the GPU is used up.
    """
    if loaded.device.type == "cuda":
        torch.cuda.empty_cache()  # else memory that loading and probing freed counts as used
        free, total = torch.cuda.mem_get_info(loaded.device)
        return gpu_share(free, total, config.gpu_memory_utilization, workspace_bytes(loaded, config, num_parameters))
    available = max(0, available_bytes() - mapped_bytes(loaded.model))
    return min(int(available * CPU_MEMORY_SHARE), max(MIN_CPU_BYTES, num_parameters * loaded.dtype.itemsize))


def gpu_share(free: int, total: int, share: float, workspace: int) -> int:
    """`share` of the card's memory without what is in use on it, by any process, and without the workspace.

    All in bytes. Raises ValueError if nothing is left.
    """
    used = total - free
    left = int(total * share) - used - workspace
    if left > 0:
        return left
    raise ValueError(
        f"OMNI_GPU_MEMORY_UTILIZATION={share:g} of the GPU's {gib(total)} GiB leaves no memory for keys and values: "
        f"{gib(used)} GiB are in use, by this model's weights and by other processes, and a step needs "
        f"{gib(workspace)} GiB; raise it (up to 1), end other processes on the GPU, lower OMNI_MAX_NUM_SEQS, or choose "
        "a smaller model."
    )


def gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f}"


def workspace_bytes(loaded: LoadedModel, config: EngineConfig, num_parameters: int) -> int:
    """Memory of the largest step besides weights and cache: its widest layer, and the logits of all rows."""
    text = loaded.model.config.get_text_config()
    max_num_seqs, max_step_tokens = step_size(loaded, config, num_parameters)
    widest = largest(text, "intermediate_size") or 4 * text.hidden_size
    num_tokens = max(max_step_tokens, max_num_seqs)
    if loaded.images is not None:  # a prompt goes through in one pass up to its last image
        num_tokens = max(num_tokens, min(loaded.card.max_model_len, MAX_IMAGE_PROMPT))
    activations: int = (
        num_tokens * (4 * widest + 8 * text.hidden_size + attention_numbers(text)) * loaded.dtype.itemsize
    )
    num_logits: int = (max_num_seqs + (MAX_DRAFTED if config.speculate else 0)) * text.vocab_size
    num_models = 2 if config.draft_model else 1  # each records steps of its own
    return num_models * GPU_WORKSPACE_BYTES + activations + num_logits * LOGITS_COPIES * torch.float32.itemsize
