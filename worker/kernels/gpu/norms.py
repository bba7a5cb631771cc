"""Root mean square norms, with the addition to the residual stream before them."""

import torch
import triton
import triton.language as tl

from worker.kernels.gpu.runtime import begin, overlap, warps_for


def rms_norm(inputs: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """The norm of each row times `weight` [width], in float32 inside; [T, width] with any row stride -> [T, width]."""
    normed = torch.empty(inputs.shape, dtype=inputs.dtype, device=inputs.device)
    _launch(inputs, None, None, weight, None, normed, eps, eps)
    return normed


def add_norm(
    hidden: torch.Tensor,
    change: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    change_norm: tuple[torch.Tensor, float] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The residual stream plus `change`, rounded to its dtype, and the norm of that; all [T, width].

    `change_norm`: weight and eps of a norm that `change` passes first, as in Gemma 2 and 3. A weight may be float32
    whatever the dtype of the rows is, which is how 1 + w is held where a checkpoint stores w.
    """
    added, normed = (torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device) for _ in range(2))
    change_weight, change_eps = change_norm or (None, eps)
    _launch(hidden, change, change_weight, weight, added, normed, eps, change_eps)
    return added, normed


def _launch(
    hidden: torch.Tensor,
    change: torch.Tensor | None,
    change_weight: torch.Tensor | None,
    weight: torch.Tensor,
    added: torch.Tensor | None,
    normed: torch.Tensor,
    eps: float,
    change_eps: float,
) -> None:
    num_rows, width = hidden.shape
    if num_rows == 0:
        return
    block = triton.next_power_of_2(width)
    norm_kernel[(num_rows,)](
        hidden, change, change_weight, weight, added, normed, width, hidden.stride(0),
        0 if change is None else change.stride(0), eps, change_eps,
        BLOCK=block, num_warps=warps_for(block), **overlap(hidden.device),
    )  # fmt: skip


@triton.jit
def norm_kernel(
    hidden, change, change_weight, weight, added, normed, width, hidden_stride, change_stride, eps, change_eps,
    BLOCK: tl.constexpr, OVERLAPS: tl.constexpr,
):  # fmt: skip
    """One program a row. `change`, `change_weight` and `added` may be None; outputs are contiguous."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    is_inside = columns < width
    if change_weight is None:  # else there are no registers for them yet
        weights = tl.load(weight + columns, mask=is_inside, other=0.0)  # which no kernel writes
    begin(OVERLAPS)
    stored = tl.load(hidden + row * hidden_stride + columns, mask=is_inside, other=0.0)
    if change is not None:
        own = tl.load(change + row * change_stride + columns, mask=is_inside, other=0.0)
        if change_weight is not None:
            change_weights = tl.load(change_weight + columns, mask=is_inside, other=0.0)
            own = normed_row(own, change_weights, width, change_eps).to(own.dtype)
            weights = tl.load(weight + columns, mask=is_inside, other=0.0)
        stored = (stored.to(tl.float32) + own.to(tl.float32)).to(stored.dtype)
        tl.store(added + row * width + columns, stored, mask=is_inside)
    result = normed_row(stored, weights, width, eps)
    tl.store(normed + row * width + columns, result.to(stored.dtype), mask=is_inside)


@triton.jit
def normed_row(numbers, weights, width, eps):
    """float32; the numbers outside the row are 0."""
    numbers = numbers.to(tl.float32)
    scale = tl.rsqrt(tl.sum(numbers * numbers, axis=0) / width + eps)
    return numbers * scale * weights.to(tl.float32)
