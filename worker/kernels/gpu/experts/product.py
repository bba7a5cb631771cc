"""Products of grouped rows with the weights of their experts, in one launch, and a layer's experts by them."""

import torch
import triton

from worker.kernels.experts.layer import ExpertLayer
from worker.kernels.gpu.experts.between import activated_outputs, weighted_sum
from worker.kernels.gpu.experts.groups import Groups, grouped
from worker.kernels.gpu.product_kernels import tile_product_kernel
from worker.kernels.gpu.products import ProductConfig, constants_of, round_up, scaled_when
from worker.kernels.packed.weights import Weights

BLOCKS_M = (16, 32, 64)  # rows of a block


class GroupedExperts:
    """The experts of a layer. What it launches depends on the number of rows alone, so it can be recorded."""

    def __init__(self, layer: ExpertLayer) -> None:
        self.layer = layer

    def __call__(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, out: torch.Tensor) -> None:
        """See Experts."""
        weighted_sum(self.outputs(hidden, chosen), weights, out)

    def outputs(self, hidden: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """hidden [T, width], chosen [T, k] -> outputs of the experts [T, k, width]."""
        layer, num_experts = self.layer, self.layer.num_experts
        groups = grouped(chosen.flatten(), num_experts, block_rows(chosen.numel(), num_experts))
        up = expert_product(hidden, layer.up, layer.up_bias, groups, top_k=chosen.shape[1])
        down = expert_product(activated_outputs(up, layer.activate), layer.down, layer.down_bias, groups, top_k=1)
        return down.view(*chosen.shape, -1)


def block_rows(num_rows: int, num_experts: int) -> int:
    """Rows of a block: as many as an expert has on average, if all are chosen equally often."""
    return next((rows for rows in BLOCKS_M if num_rows <= rows * num_experts), BLOCKS_M[-1])


def expert_product(
    inputs: torch.Tensor,
    weights: Weights,
    bias: torch.Tensor | None,
    groups: Groups,
    *,
    top_k: int,
    config: ProductConfig | None = None,
) -> torch.Tensor:
    """inputs [rows / top_k, in] -> [rows, out]; row r multiplies inputs[r // top_k] by its expert's weights."""
    config = config or config_for(weights, groups.block_m)
    inputs = inputs if inputs.stride(-1) == 1 else inputs.contiguous()
    num_columns = weights.codes.shape[-1]
    output = torch.empty(groups.num_rows, weights.num_out, dtype=weights.dtype, device=inputs.device)
    if groups.num_rows == 0:
        return output
    tile_product_kernel[(triton.cdiv(weights.num_out, config.block_n) * groups.num_blocks,)](
        inputs, weights.codes, weights.scales, weights.offsets, weights.minimums, bias,
        groups.block_experts, groups.slots, output,
        groups.num_rows, weights.num_out, num_columns, weights.num_in, groups.num_blocks,
        round_up(num_columns, config.block_k), inputs.stride(0),
        TOP_K=top_k, IS_PART=False, **constants_of(weights, config),
    )  # fmt: skip
    return output


def config_for(weights: Weights, block_m: int) -> ProductConfig:
    """The launch of blocks of so many rows; the fastest for gpt-oss' experts on an H200."""
    is_wide = scaled_when(weights, ProductConfig(block_m, 64, 64, 1, 4, 3)) in ("", "rows")
    if block_m == 16:
        return ProductConfig(16, 32, 128 if is_wide else 64, 1, 2, 4)
    if block_m == 32:
        return ProductConfig(32, 64, 64, 1, 4, 4) if is_wide else ProductConfig(32, 32, 64, 1, 2, 4)
    return ProductConfig(64, 128 if is_wide else 64, 64, 1, 8 if is_wide else 4, 3)
