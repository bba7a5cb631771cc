"""The memory of DeepSeek-V3.2 by part, and the tokens a second that memory allows: python -m bench.deepseek

Arithmetic on the released shape, without its weights: what our runners hold, in the forms in which they hold it.
`--write` puts the tables into docs/deepseek-v3.2.md.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import DeepseekV32Config

from bench.report import table
from worker.attention.latent.index_keys import index_shape
from worker.fit.bandwidth import Rates
from worker.kernels.packed.encodings import WEIGHTS, cpu_int4_weights
from worker.kernels.packed.weights import SCALE_BLOCK
from worker.state.kv_cache import LayerShape

DOC = Path(__file__).resolve().parent.parent / "docs" / "deepseek-v3.2.md"
CONTEXT = 32_768  # tokens
STREAMS = (1, 2, 8, 16)
SHOWN = (1, 16)  # of these, in the table of speeds
HOST_RATES = (100, 200, 300, 400, 500, 600)  # GB/s that the cores read, as omni fit measures it
DEVICE_RATE = 3.5e12  # bytes a second that an H200 reads, by omni fit's measure
FIT_PARTS = {  # of ours, what omni fit calls them
    "attention's projections": "attention",
    "keys' and values' matrices, absorbed": "attention",
    "indexer": "indexer",
    "weights of its heads": "indexer",
    "dense MLPs of 3 layers": "dense layers and routers",
    "routers": "dense layers and routers",
    "shared experts": "shared experts",
    "embeddings": "embeddings and head",
    "head": "embeddings and head",
}
GPU, HOST = "GPU", "host memory"
FP8 = 1 + 4 / SCALE_BLOCK**2  # bytes a number, with its part of a block's scale


@dataclass(frozen=True)
class Part:
    """Numbers of one form, in one place."""

    name: str
    count: int
    width: float  # bytes a number
    form: str

    @property
    def num_bytes(self) -> float:
        return self.count * self.width


def parts(config: Any) -> Iterator[Part]:
    """What stands on the GPU but for keys and values, and the experts."""
    width, layers, heads = config.hidden_size, config.num_hidden_layers, config.num_attention_heads
    dense = config.first_k_dense_replace
    nope, rope, value = config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim
    rank, q_rank, index = config.kv_lora_rank, config.q_lora_rank, config.index_head_dim
    attention = q_rank * width + heads * (nope + rope) * q_rank + (rank + rope) * width + width * heads * value
    yield Part("attention's projections", layers * attention, FP8, "fp8")
    yield Part("keys' and values' matrices, absorbed", layers * heads * (nope + value) * rank, 2, "bf16")
    indexer = config.index_n_heads * index * q_rank + index * width
    yield Part("indexer", layers * indexer, FP8, "fp8")
    yield Part("weights of its heads", layers * config.index_n_heads * width, 4, "float32")
    yield Part(f"dense MLPs of {dense} layers", dense * 3 * width * config.intermediate_size, FP8, "fp8")
    inner = config.n_shared_experts * config.moe_intermediate_size
    yield Part("shared experts", (layers - dense) * 3 * width * inner, FP8, "fp8")
    yield Part("routers", (layers - dense) * config.n_routed_experts * width, 4, "float32")
    yield Part("embeddings", config.vocab_size * width, 2, "bf16")
    yield Part("head", config.vocab_size * width, 2, "bf16")


def expert_forms(config: Any) -> dict[str, float]:
    """Bytes of a number of an expert in each form that the CPU's kernels read."""
    width, inner = config.hidden_size, config.moe_intermediate_size
    one = [torch.empty(*shape, dtype=torch.bfloat16, device="meta") for shape in ((2 * inner, width), (width, inner))]
    count = sum(matrix.numel() for matrix in one)
    packers = {"int8": WEIGHTS["int8"], "int4": cpu_int4_weights}
    packed = {name: sum(pack(matrix).num_bytes for matrix in one) / count for name, pack in packers.items()}
    return {"fp8": FP8} | packed


def expert_numbers(config: Any) -> int:
    """Of all routed experts."""
    sparse: int = config.num_hidden_layers - config.first_k_dense_replace
    return sparse * int(config.n_routed_experts * 3 * config.moe_intermediate_size * config.hidden_size)


def share_read(config: Any, num_tokens: int) -> float:
    """Of the experts, those that a step of so many tokens reads, if each chooses at random."""
    return 1.0 - float(1 - config.num_experts_per_tok / config.n_routed_experts) ** num_tokens


def token_bytes(config: Any) -> int:
    """Of a token in the KV cache: latents in bf16, index keys in fp8 with a scale."""
    values = index_shape(config.index_head_dim, torch.bfloat16)
    shape = LayerShape(1, config.kv_lora_rank + config.qk_rope_head_dim, *values)
    return int(config.num_hidden_layers) * shape.token_bytes(torch.bfloat16)


def seconds(config: Any, form: str, num_tokens: int, host_rate: float) -> float:
    """Of a decode step: the GPU's part, then the experts. `host_rate`: GB/s."""
    experts = expert_numbers(config) * expert_forms(config)[form] * share_read(config, num_tokens)
    rest = sum(part.num_bytes for part in parts(config))
    return Rates(host_rate * 1e9, DEVICE_RATE).seconds(rest, experts, config.num_hidden_layers, is_gpu=True)


def memory_rows(config: Any) -> Iterator[tuple[str, ...]]:
    found, keys = list(parts(config)), token_bytes(config)
    for part in found:
        yield part.name, f"{part.count / 1e9:.2f} B", part.form, gib(part.num_bytes), GPU
    yield f"latents and index keys of {CONTEXT:,} tokens", f"{keys:,} bytes each", "bf16, fp8", gib(keys * CONTEXT), GPU
    total = sum(part.num_bytes for part in found) + keys * CONTEXT
    yield "**together**", "", "", f"**{gib(total)}**", GPU
    count = expert_numbers(config)
    for form, width in expert_forms(config).items():
        yield "routed experts", f"{count / 1e9:.2f} B", form, gib(count * width), HOST


def read_rows(config: Any) -> Iterator[tuple[str, ...]]:
    widths, count = expert_forms(config).values(), expert_numbers(config)
    for num in STREAMS:
        share = share_read(config, num)
        yield str(num), f"{share:.1%}", *(f"{count * width * share / 1e9:.1f} GB" for width in widths)


def speed_rows(config: Any) -> Iterator[tuple[str, ...]]:
    for rate in HOST_RATES:
        ways = [(form, num) for form in expert_forms(config) for num in SHOWN]
        yield f"{rate} GB/s", *(f"{num / seconds(config, form, num, rate):.1f}" for form, num in ways)


def gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:,.2f} GiB"


def tables() -> dict[str, str]:
    """By the name that the page marks their places with."""
    config = DeepseekV32Config()
    forms = list(expert_forms(config))
    speeds = [f"{form}, {num} stream{'s' * (num > 1)}" for form in forms for num in SHOWN]
    return {
        "memory": table(("part", "numbers", "form", "memory", "where"), memory_rows(config)),
        "read": table(("tokens in the step", "of all experts", *forms), read_rows(config)),
        "speed": table(("the cores read", *speeds), speed_rows(config)),
    }


def filled(page: str) -> str:
    """The page with its tables made anew."""
    for name, text in tables().items():
        begin, end = f"<!-- {name}: python -m bench.deepseek --write -->", "<!-- end -->"
        before, found, rest = page.partition(begin)
        assert found, f"{DOC.name} has no place for {name}"
        page = f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"into {DOC.name}")
    if parser.parse_args().write:
        DOC.write_text(filled(DOC.read_text()))
    else:
        print("\n\n".join(tables().values()))


if __name__ == "__main__":
    main()
