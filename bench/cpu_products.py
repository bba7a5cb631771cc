"""Times of a CPU's products, one thread: oneDNN in bf16, ours in bf16, int8 and int4. python -m bench.cpu_products

Weights are those of 24 layers in turn, so that they come from memory. The thread's own time is taken: other
processes disturb it little.
"""

import argparse
import time
from collections.abc import Callable

import torch

from worker.kernels.linear import Linear, PackedLinear
from worker.kernels.packed.choice import choose_ways
from worker.kernels.packed.cpu import cpu_linear
from worker.kernels.packed.dense import dense_cpu_linear
from worker.kernels.packed.encodings import cpu_int4_weights, int8_weights

NUM_LAYERS = 24
NUM_TRIES = 7
FORMS: dict[str, Callable[[torch.Tensor], Linear]] = {
    "oneDNN bf16": lambda weight: PackedLinear(weight, None),
    "bf16": lambda weight: dense_cpu_linear(weight, None),
    "int8": lambda weight: cpu_linear(int8_weights(weight), None),
    "int4": lambda weight: cpu_linear(cpu_int4_weights(weight), None),
}


def microseconds(layers: list[Linear], inputs: torch.Tensor) -> float:
    """Of one product: the fastest of some turns over all layers."""
    times = []
    for _ in range(NUM_TRIES):
        started = time.thread_time()
        for layer in layers:
            layer(inputs)
        times.append((time.thread_time() - started) / len(layers))
    return min(times) * 1e6


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="9728x896,896x4864", help="out x in")
    parser.add_argument("--rows", default="1,4,16,64,256")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| product | rows | {' | '.join(f'{name} µs' for name in FORMS)} |\n|{'---|' * (len(FORMS) + 2)}")
    for shape in args.shapes.split(","):
        num_out, num_in = map(int, shape.split("x"))
        weights = [torch.randn(num_out, num_in).bfloat16() for _ in range(NUM_LAYERS)]
        layers = {name: [make(weight) for weight in weights] for name, make in FORMS.items()}
        choose_ways([layer for found in layers.values() for layer in found], None)  # as in a model that is not small
        for num_rows in map(int, args.rows.split(",")):
            inputs = torch.randn(num_rows, num_in).bfloat16()
            figures = " | ".join(f"{microseconds(found, inputs):.0f}" for found in layers.values())
            print(f"| {shape} | {num_rows} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
