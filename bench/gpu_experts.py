"""The experts of a sparse model's layer: ours from packed weights beside transformers' from dense ones."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F
from transformers import GptOssConfig
from transformers.integrations.moe import grouped_mm_experts_forward
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

from bench.gpu_alone import Checks, alone_seconds, can_run_triton, error_of
from bench.gpu_bench import Bench
from bench.gpu_packed import DTYPE, FORMS, run_once, short
from worker.kernels.experts.layer import ExpertLayer
from worker.kernels.experts.swap import experts_forward
from worker.kernels.packed.weights import Weights

ROUNDING = 0.08  # two products and an activation between them, all rounded to bf16
EXPERT_FORMS = ("MXFP4", "Q4_K", "Q8_0")


class Layer:
    """gpt-oss-20b's, or a tiny one, with random weights: transformers' module, and its experts in other forms."""

    def __init__(self, bench: Bench) -> None:
        is_tiny = bench.shape == "tiny"
        self.device = bench.device
        self.width = 64 if is_tiny else 2880
        self.num_experts, self.top_k = (4, 2) if is_tiny else (32, 4)
        config = GptOssConfig(
            hidden_size=self.width, intermediate_size=self.width, num_local_experts=self.num_experts,
            num_experts_per_tok=self.top_k,
        )  # fmt: skip
        with torch.device(self.device):
            self.module: Any = GptOssExperts(config).to(DTYPE).requires_grad_(False)
        for parameter in self.module.parameters():
            parameter.normal_(std=self.width**-0.5)

    def packed(self, form: str) -> ExpertLayer:
        up, down = (self.weights(form, num_out) for num_out in (2 * self.width, self.width))
        biases = self.module.gate_up_proj_bias, self.module.down_proj_bias
        return ExpertLayer(up, down, *biases, self.module._apply_gate)

    def weights(self, form: str, num_out: int) -> Weights:
        return FORMS[form]((self.num_experts,), num_out, self.width, self.device)

    def inputs(self, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Hidden states, chosen experts and their weights."""
        hidden = torch.randn(num_tokens, self.width, dtype=DTYPE, device=self.device)
        scores = torch.randn(num_tokens, self.num_experts, device=self.device)
        weights, chosen = scores.softmax(-1).topk(self.top_k, dim=-1)
        return hidden, chosen, weights.to(DTYPE)


def experts(bench: Bench) -> None:
    """Against one expert after the other, then times of a layer and of its parts."""
    if not can_run_triton(bench):
        return
    layer = Layer(bench)
    check(bench, layer)
    tokens = (1, 4, 16, 64, 256, 2048) if bench.shape == "8b" else (3,)
    bench.report.columns("experts", "tokens", "us", "us of bf16 by transformers")
    inputs = {num_tokens: layer.inputs(num_tokens) for num_tokens in tokens}
    stock = {
        num_tokens: alone_seconds(
            [partial(grouped_mm_experts_forward, layer.module, *inputs[num_tokens])], bench.device
        )
        for num_tokens in tokens
    }
    for name, made in ways(layer):
        layer.module.experts_product = made
        calls = {num_tokens: partial(experts_forward, layer.module, *inputs[num_tokens]) for num_tokens in tokens}
        run_once(calls.values() if bench.device.type == "cuda" else ())
        for num_tokens, call in calls.items():
            seconds = alone_seconds([call], bench.device)
            bench.report.row(name, num_tokens, f"{seconds * 1e6:.1f}", f"{stock[num_tokens] * 1e6:.1f}")
            bench.report.number(f"experts/{name}/{num_tokens}/us", seconds * 1e6, stock=stock[num_tokens] * 1e6)
    parts(bench, layer)


def ways(layer: Layer) -> Iterator[tuple[str, Any]]:
    from worker.kernels.gpu.experts.product import GroupedExperts

    for form in EXPERT_FORMS:
        yield form, GroupedExperts(layer.packed(form))
    up, down = (
        Weights("dense", DTYPE, layer.width, matrix.transpose(1, 2).contiguous())
        for matrix in (layer.module.gate_up_proj, layer.module.down_proj)
    )
    biases = layer.module.gate_up_proj_bias, layer.module.down_proj_bias
    yield "bf16", GroupedExperts(ExpertLayer(up, down, *biases, layer.module._apply_gate))


def check(bench: Bench, layer: Layer) -> None:
    from worker.kernels.gpu.experts.product import GroupedExperts

    table = Checks(bench)
    for form in EXPERT_FORMS:
        made = layer.packed(form)
        for num_tokens in (3, 40, 600) if bench.shape == "8b" else (3,):
            hidden, chosen, _ = layer.inputs(num_tokens)

            def run(made: ExpertLayer = made, hidden: torch.Tensor = hidden, chosen: torch.Tensor = chosen) -> float:
                return error_of(GroupedExperts(made).outputs(hidden, chosen), one_by_one(made, hidden, chosen))

            table.check(f"experts {form}", f"{num_tokens} tokens", ROUNDING, run)
    table.end()


def one_by_one(made: ExpertLayer, hidden: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The outputs of the chosen experts [T, k, width], from weights made dense."""
    assert made.up_bias is not None and made.down_bias is not None
    outputs = hidden.new_empty(*chosen.shape, hidden.shape[1])
    for expert in torch.unique(chosen).tolist():
        token, place = torch.where(chosen == expert)
        up = F.linear(hidden[token], made.up.matrix(expert).dense(), made.up_bias[expert])
        down = made.down.matrix(expert).dense()
        outputs[token, place] = F.linear(made.activate(up), down, made.down_bias[expert])
    return outputs


def parts(bench: Bench, layer: Layer) -> None:
    """What a layer's time goes to, and the larger product in other configurations."""
    from worker.kernels.gpu.experts.groups import grouped
    from worker.kernels.gpu.experts.product import block_rows, expert_product
    from worker.kernels.gpu.products import ProductConfig

    up = layer.weights("MXFP4", 2 * layer.width)
    tiles = [(32, 64, 2, 4), (32, 128, 2, 3), (64, 64, 4, 4), (64, 128, 4, 3), (32, 32, 2, 6), (128, 64, 4, 3)]
    tiles = tiles if bench.shape == "8b" else tiles[:1]
    bench.report.columns("part", "tokens", "us")
    for num_tokens in (1, 16, 256) if bench.shape == "8b" else (3,):
        hidden, chosen, _ = layer.inputs(num_tokens)
        flat = chosen.flatten()
        block_m = block_rows(len(flat), layer.num_experts)
        groups = grouped(flat, layer.num_experts, block_m)
        outputs = torch.randn(len(flat), 2 * layer.width, dtype=DTYPE, device=bench.device)
        timed: dict[str, Any] = {
            "groups": partial(grouped, flat, layer.num_experts, block_m),
            "activation": partial(layer.module._apply_gate, outputs),
        }
        for tile in tiles:
            config = ProductConfig(block_m, *tile[:2], 1, *tile[2:])
            call = partial(expert_product, hidden, up, None, groups, top_k=layer.top_k, config=config)
            timed[f"up, {short(config)}"] = call
        run_once(timed.values() if bench.device.type == "cuda" else ())
        for name, call in timed.items():
            try:
                seconds = alone_seconds([call], bench.device)
            except Exception as raised:
                bench.report.row(name, num_tokens, f"FAILED: {str(raised)[:80]}")
                continue
            bench.report.row(name, num_tokens, f"{seconds * 1e6:.1f}")
            bench.report.number(f"experts parts/{name}/{num_tokens}/us", seconds * 1e6)
