"""Experts of sparse models on a CPU: errors, memory bandwidth, tokens/s beside others. python -m bench.sparse --help

The layer: hidden states of 2,048, 64 experts of 768, 8 chosen. The bandwidth is that of all threads reading one block
of memory in large pages; a step's bytes are those of the experts that its rows chose, with their scales. `engines` runs
12 such layers from one GGUF file, so that llama.cpp reads the same bits.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from bench.roofline import seconds_of
from bench.sparse_model import EXPERTS, INNER, TOP_K, WIDTH, save_sparse_gguf
from bench.sparse_peers import llama_tokens, our_tokens, transformers_tokens
from worker.kernels.experts.activation import Activation
from worker.kernels.experts.cpu import CpuExperts
from worker.kernels.experts.form import ExpertsForm, lay_out
from worker.kernels.experts.layer import ExpertLayer
from worker.kernels.experts.looped import LoopedExperts
from worker.kernels.heap import use_large_pages
from worker.kernels.packed.encodings import (
    cpu_int4_weights,
    dense_weights,
    fp8_block_weights,
    int4_weights,
    int8_weights,
)
from worker.kernels.packed.weights import MX_GROUP, Weights, stacked_weights

DTYPE = torch.bfloat16
NUM_LAYERS = 3  # of a measurement, in turn, so that weights come from memory
NUM_TRIES = 12
READ_BYTES = 2**28
ERROR_EXPERTS = 8
Maker = Callable[[int, int], Weights]  # outputs, inputs


def random(num_out: int, num_in: int) -> torch.Tensor:
    return torch.randn(num_out, num_in).div_(num_in**0.5).to(DTYPE)


def mxfp4(num_out: int, num_in: int) -> Weights:
    codes = torch.randint(0, 256, (num_out, num_in // 2), dtype=torch.uint8)
    exponents = torch.randint(117, 122, (num_out, num_in // MX_GROUP), dtype=torch.uint8)
    return Weights("mxfp4", DTYPE, num_in, codes, exponents, group=MX_GROUP)


FORMS: Mapping[str, Maker] = MappingProxyType(
    {
        "int4, groups of 32 with a minimum": lambda num_out, num_in: cpu_int4_weights(random(num_out, num_in)),
        "int4, groups of 128 with an offset": lambda num_out, num_in: int4_weights(random(num_out, num_in), 128),
        "mxfp4": mxfp4,
        "int8, rows": lambda num_out, num_in: int8_weights(random(num_out, num_in)),
        "fp8, blocks of 128 x 128": lambda num_out, num_in: fp8_block_weights(random(num_out, num_in)),
        "bf16": lambda num_out, num_in: dense_weights(random(num_out, num_in)),
    }
)


def inputs_of(num_rows: int, num_experts: int, top_k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_rows)
    chosen = torch.stack([torch.randperm(num_experts, generator=generator)[:top_k] for _ in range(num_rows)])
    return torch.randn(num_rows, WIDTH, generator=generator).to(DTYPE), chosen, torch.rand(num_rows, top_k)


def print_errors() -> None:
    """Of sums, as a share of their size, against float64 with the numbers that the codes stand for exactly."""
    print("| experts | ours | the dequantized twin in bf16 |\n|---|---|---|")
    for name, make in FORMS.items():
        torch.manual_seed(0)
        up, down = (
            stacked_weights([make(*shape) for _ in range(ERROR_EXPERTS)])
            for shape in ((2 * INNER, WIDTH), (WIDTH, INNER))
        )
        layer, inputs = ExpertLayer(up, down, None, None, Activation()), inputs_of(16, ERROR_EXPERTS, 4)
        twin = ExpertLayer(dense_twin(up, DTYPE), dense_twin(down, DTYPE), None, None, Activation())
        exact = ExpertLayer(dense_twin(up, torch.float64), dense_twin(down, torch.float64), None, None, Activation())
        hidden, chosen, weights = inputs
        right = torch.empty(hidden.shape, dtype=torch.float64)
        LoopedExperts(exact)(hidden.double(), chosen, weights, right)
        errors = []
        for experts in (CpuExperts.of(layer), LoopedExperts(twin)):
            found = torch.empty_like(hidden)
            experts(hidden, chosen, weights, found)
            errors.append(float((found.double() - right).norm() / right.norm()))
        print(f"| {name} | {errors[0]:.2e} | {errors[1]:.2e} |", flush=True)


def dense_twin(weights: Weights, dtype: torch.dtype) -> Weights:
    numbers = weights.to(None, torch.float32).dense()
    return Weights("dense", dtype, weights.num_in, numbers.to(dtype))


def layers_of(make: Maker) -> list[CpuExperts]:
    """Some layers of the same codes, each at addresses of its own."""
    up, down = make(2 * INNER, WIDTH), make(WIDTH, INNER)
    form = ExpertsForm.of(up, down, Activation())
    layers = []
    for _ in range(NUM_LAYERS):
        tensors = {}
        for name, part in lay_out(form, up, down).items():
            tensors[name] = part.new_empty(EXPERTS, *part.shape)
            use_large_pages(tensors[name])
            tensors[name][:] = part
        layers.append(CpuExperts(form, tensors))
    return layers


def large_block() -> torch.Tensor:
    block = torch.empty(READ_BYTES // 8, dtype=torch.int64)
    use_large_pages(block)
    return block.zero_()


def rates(layers: list[CpuExperts], num_rows: int, block: torch.Tensor) -> tuple[float, float]:
    """Bytes per second of the experts that steps of so many rows chose, and of reading `block`; medians.

    By turns: what a host lends of its memory changes from one second to the next.
    """
    hidden, chosen, weights = inputs_of(num_rows, EXPERTS, TOP_K)
    out, seconds, reading = torch.empty_like(hidden), [], []
    for turn in range(NUM_TRIES):
        own = (chosen + 7 * turn) % EXPERTS
        started = time.perf_counter()
        for experts in layers:
            experts(hidden, own, weights, out)
        seconds.append(time.perf_counter() - started)
        reading += seconds_of(block.sum, block.device, 1)
    size = len(layers) * len(torch.unique(chosen)) * layers[0].num_bytes / EXPERTS
    return size / statistics.median(seconds), block.nbytes / statistics.median(reading)


def print_bandwidth(rows: list[int]) -> None:
    """Measured by turns with reading a block of memory."""
    print(f"| experts | bytes a weight | {' | '.join(f'{each} rows' for each in rows)} |\n|{'---|' * (len(rows) + 2)}")
    block = large_block()
    for name, make in FORMS.items():
        layers = layers_of(make)
        size = layers[0].num_bytes / (EXPERTS * 3 * WIDTH * INNER)
        cells = []
        for num_rows in rows:
            found, memory = rates(layers, num_rows, block)
            cells.append(f"{found / 1e9:.1f} of {memory / 1e9:.1f} GB/s, {found / memory:.0%}")
        print(f"| {name} | {size:.3f} | {' | '.join(cells)} |", flush=True)
        del layers


def print_engines(args: argparse.Namespace) -> None:
    print("| engine | streams | tokens/s |\n|---|---|---|")
    streams = [int(text) for text in args.streams.split(",")]
    path = save_sparse_gguf(args.folder, args.kind)
    by_engine = {f"ours, {args.kind}": our_tokens(path, streams)}
    if args.llama is not None:
        by_engine[f"llama.cpp, {args.kind}"] = llama_tokens(args.llama, path, streams)
    if args.transformers:
        by_engine["transformers, bf16"] = transformers_tokens(streams)
    for name, found in by_engine.items():
        for num_streams, rate in found.items():
            print(f"| {name} | {num_streams} | {rate:.1f} |", flush=True)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["errors", "bandwidth", "engines"])
    parser.add_argument("--rows", default="1,2,4,8,16,32,64")
    parser.add_argument("--streams", default="1,8")
    parser.add_argument("--kind", default="Q4_0", help="of the GGUF file's matrices")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/omni-sparse"), help="for the GGUF file, 2 GB")
    parser.add_argument("--llama", type=Path, help="llama.cpp's llama-batched-bench")
    parser.add_argument("--transformers", action="store_true", help="takes 2 GB, layers share their weights")
    args = parser.parse_args()
    if args.only in (None, "errors"):
        print_errors()
    if args.only in (None, "bandwidth"):
        print_bandwidth([int(text) for text in args.rows.split(",")])
    if args.only in (None, "engines"):
        print_engines(args)


if __name__ == "__main__":
    main()
