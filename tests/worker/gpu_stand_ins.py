"""Equivalents of a GPU's parts on a CPU: CUDA graphs, and the attention kernel by torch."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes, _get_current_dispatch_mode

from worker.kernels.gpu.paged_attention import Pages, Tiles

PAGE = 16  # tokens of a block in these tests
aten = torch.ops.aten
WAITING = (  # a number is asked for (in inference mode under other names), or a shape depends on one
    aten._local_scalar_dense.default, aten.item.default, aten.is_nonzero.default,
    aten.nonzero.default, aten._unique2.default,
)  # fmt: skip


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
            for old, new in zip(recorded or (), again or (), strict=True):
                if old.data_ptr() != new.data_ptr() and old.numel():
                    old.copy_(new)


def launched(kernel: Callable[..., None]) -> Callable[..., None]:
    """Like the launch of a kernel: a recording notes the call, and nothing that happens inside is seen."""

    def launch(*args: Any, **kwargs: Any) -> None:
        mode = _get_current_dispatch_mode()
        with _disable_current_modes():
            kernel(*args, **kwargs)
        if isinstance(mode, Recording):
            mode.calls.append((launch, args, kwargs, None))

    return launch


def recorded(function: Callable[[], None]) -> Callable[[], None]:
    """Replaces cuda_capture()."""
    with torch.inference_mode(), Recording() as recording:
        function()
    return torch.inference_mode()(recording.replay)


def attend(
    query: torch.Tensor, pages: Pages, tiles: Tiles, out: torch.Tensor, *, scale: float, window: int | None = None,
    softcap: float | None = None, sinks: torch.Tensor | None = None, num_splits: int = 1,
    usual_splits: int | None = None,
) -> None:  # fmt: skip
    """What worker/kernels/gpu/paged_attention.py computes, by torch: much faster than the interpreter.

    Tokens of no tile, the padding of a recorded step, get NaN.
    """
    assert softcap is None and sinks is None and num_splits >= 1
    if tiles.rows is None:  # the first launch
        out.fill_(torch.nan)
    starts, num_keys, page = tiles.query_starts.tolist(), pages.num_keys.tolist(), pages.keys.shape[2]
    for tile in range(tiles.count):
        row = tile if tiles.rows is None else int(tiles.rows[tile])
        count = starts[row + 1] - starts[row]
        if row < 0 or tiles.rows is None and count > tiles.num_queries:
            continue
        first = 0 if tiles.starts is None else int(tiles.starts[tile])
        count = min(count - first, tiles.num_queries)
        if count <= 0:
            continue
        begin, length = starts[row] + first, num_keys[row]
        position = length - (starts[row + 1] - starts[row]) + first
        blocks = pages.block_table[row, : -(-length // page)].long()
        keys, values = (pool[:, blocks].flatten(1, 2)[:, :length].float() for pool in (pages.keys, pages.values))
        distance = torch.arange(position, position + count)[:, None] - torch.arange(length)
        seen = (distance >= 0) & (distance < (window or length + 1))
        own = query[begin : begin + count].transpose(0, 1).float()
        output = F.scaled_dot_product_attention(own, keys, values, attn_mask=seen, scale=scale, enable_gqa=True)
        out[begin : begin + count] = output.transpose(0, 1).to(out.dtype)


class CountWaits(TorchDispatchMode):
    """Counts the operators for which Python would wait for a GPU; tolist() and copies are not counted."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in WAITING
        return func(*args, **(kwargs or {}))
