"""Equivalents of a GPU's parts on a CPU: torch's flash kernel with its checks and its bugs, and CUDA graphs."""

from collections.abc import Callable
from typing import Any

import torch
from torch.library import Library
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

PAGE = 16  # tokens of a block in these tests
aten = torch.ops.aten
WAITING = (  # a number is asked for (in inference mode under other names), or a shape depends on one
    aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default,
    aten.nonzero.default, aten._unique2.default,
)  # fmt: skip


def flash_kernel(page_size: int) -> Library:
    """Make torch.nn.attention.varlen run on a CPU, over pages of this size, until the library is destroyed.

    The real one takes multiples of 256 tokens. What it refuses was read in the sources of torch 2.13.
    """
    library = Library("aten", "IMPL")  # noqa: TOR901

    def forward(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
        cum_seq_q: torch.Tensor | None, cum_seq_k: torch.Tensor | None, max_q: int, max_k: int,
        dropout_p: float, is_causal: bool, return_debug_mask: bool, *,
        scale: float | None = None, window_size_left: int | None = None, window_size_right: int | None = None,
        seqused_k: torch.Tensor | None = None, alibi_slopes: torch.Tensor | None = None,
        block_table: torch.Tensor | None = None, num_splits: int | None = None,
    ) -> tuple[torch.Tensor, ...]:  # fmt: skip
        assert cum_seq_q is not None and seqused_k is not None and block_table is not None
        if cum_seq_k is None:
            raise RuntimeError("cumulative_sequence_length_q and _k must be both set or both not set")
        num_seqs = len(cum_seq_q) - 1
        for numbers, shape in ((cum_seq_q, (num_seqs + 1,)), (cum_seq_k, (num_seqs + 1,)), (seqused_k, (num_seqs,))):
            assert numbers.dtype == torch.int32 and numbers.is_contiguous() and tuple(numbers.shape) == shape
        assert block_table.dtype == torch.int32 and block_table.stride(-1) == 1 and len(block_table) == num_seqs
        assert block_table.ndim == 2 and block_table.shape[1] * page_size == max_k
        for tensor in (query, key, value):
            assert tensor.stride(-1) == 1 and tensor.shape[-1] % 8 == 0 and tensor.shape[-1] <= 256
        assert key.shape == value.shape and key.shape[1] == page_size
        assert query.shape[1] % key.shape[2] == 0
        left = -1 if window_size_left is None else window_size_left
        right = -1 if window_size_right is None else window_size_right
        assert is_causal == ((left, right) == (-1, 0)) and (right == 0 or max_q == 1), "it would see what comes later"
        output = attend(query, key, value, cum_seq_q, seqused_k, block_table, float(scale or 1.0), left)
        is_swapped = max_q == 1 and query.shape[1] > key.shape[2] and left < 0 and right < 0
        if num_splits != 1 and not is_swapped:  # pytorch/pytorch#194167
            output[int(cum_seq_q[1]) :] = torch.nan
        return output, output.new_empty(query.shape[1], len(query)), *(torch.empty(0) for _ in range(3))

    library.impl("_flash_attention_forward", forward, "CPU")
    return library


def attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, starts: torch.Tensor, num_keys: torch.Tensor,
    block_table: torch.Tensor, scale: float, left: int,
) -> torch.Tensor:  # fmt: skip
    """The kernel's result, computed one sequence at a time; queries [T, heads, dim] are the last of their sequence."""
    outputs = []
    for at, (start, stop) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        length = int(num_keys[at])
        keys, values = (pool[block_table[at]].flatten(0, 1)[:length].transpose(0, 1) for pool in (key, value))
        distance = torch.arange(length - (stop - start), length)[:, None] - torch.arange(length)
        seen = (distance >= 0) & ((distance <= left) | (left < 0))
        own = query[start:stop].transpose(0, 1)
        output = F.scaled_dot_product_attention(own, keys, values, attn_mask=seen, scale=scale, enable_gqa=True)
        outputs.append(output.transpose(0, 1))
    return torch.cat(outputs)


class Recording(TorchDispatchMode):
    """Like a CUDA graph: records which operators ran on which memory. A replay runs only these, on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in WAITING:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        output = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, output))
        return output

    def replay(self) -> None:
        for func, args, kwargs, recorded in self.calls:
            again = func(*args, **kwargs)
            if isinstance(recorded, torch.Tensor):
                recorded, again = (recorded,), (again,)
            for old, new in zip(recorded, again, strict=True):
                if old.data_ptr() != new.data_ptr() and old.numel():
                    old.copy_(new)


def recorded(function: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """Replaces cuda_capture()."""
    with torch.inference_mode(), Recording() as recording:
        output = function()

    @torch.inference_mode()
    def replay() -> torch.Tensor:
        recording.replay()
        return output

    return replay


class CountWaits(TorchDispatchMode):
    """Counts the operators for which Python would wait for a GPU; tolist() and copies are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in WAITING
        return func(*args, **(kwargs or {}))
