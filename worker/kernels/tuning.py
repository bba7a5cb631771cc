"""A GPU's linear layers, and the measurement at start that chooses how each computes its products.

For every distinct product (form of the weights, widths, number of rows) torch is timed against our kernels. The weights
are those of the model's layers in turn, so that they come from memory as in a decode step and not from the L2 cache.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Seq
from dataclasses import astuple, dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path

import torch

from worker.device import check_device
from worker.kernels.gpu.products import TRITON_VERSION, ProductConfig, by_torch, configs_for, product
from worker.kernels.linear import parts_of
from worker.kernels.packed.encodings import WEIGHTS
from worker.kernels.packed.weights import Weights
from worker.kernels.product_table import Choice, ProductTable

logger = logging.getLogger(__name__)

FEW_ROWS = (1, 2, 4, 8, 16)  # numbers of rows that are measured; others use the next larger one
DENSE_ROWS = (32,)  # the same of dense weights besides; torch alone is faster for more
MANY_ROWS = (32, 64, 128, 256, 512, 1024)  # the same of quantized weights; beyond them torch gets them made dense
MIN_GAIN = 0.03  # by less, torch is kept: that is noise
MAX_DEVIATION = 0.02  # from torch's product, of its largest number
CACHE_BYTES = 1 << 28  # of weights read in turn: several L2 caches
MAX_IN_TURN = 16
NUM_REPLAYS = 3
BUDGET_S = 15.0  # for measurements of one start, compiling included; what is left over is measured at the next one


class ProductLinear:
    """A matrix product on a GPU. The number of rows decides how it is computed, by `configs`; None is torch."""

    def __init__(self, weights: Weights, bias: torch.Tensor | None, *, for_few_rows: bool = False) -> None:
        """`for_few_rows`: more than FEW_ROWS are computed elsewhere, and so not measured here."""
        self.weights = weights
        self.bias = bias
        multiprocessors = num_multiprocessors(weights.codes.device)
        more_rows = DENSE_ROWS if weights.kind == "dense" else MANY_ROWS
        self.configs: dict[int, ProductConfig | None] = {
            num_rows: None if weights.kind == "dense" else next(configs_for(weights, num_rows, multiprocessors))
            for num_rows in (FEW_ROWS if for_few_rows else FEW_ROWS + more_rows)
        }

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        for num_rows, config in self.configs.items():
            if len(inputs) <= num_rows:
                return self.compute(inputs, config)
        return self.compute(inputs, None)

    def compute(self, inputs: torch.Tensor, config: ProductConfig | None, *, starts_early: bool = True) -> torch.Tensor:
        """`starts_early`: see product()."""
        if config is None:
            return by_torch(inputs, self.weights, self.bias)
        return product(inputs, self.weights, self.bias, config, starts_early=starts_early)


@dataclass(frozen=True, slots=True)
class TimedProduct:
    """The time of one configuration of one product."""

    kind: str
    num_out: int
    num_in: int
    num_rows: int
    config: ProductConfig | None  # None: torch
    seconds: float
    num_bytes: int  # of weights, inputs and outputs: what must be read or written


Timer = Callable[[Seq[ProductLinear], int, ProductConfig | None], float]  # seconds of one product with so many rows


@torch.inference_mode()
def tune(
    linears: Seq[object], device: torch.device, table: Path | None, timer: Timer | None = None
) -> Mapping[str, Choice]:
    """Set the configurations of all ProductLinears among `linears`: from the table's file, else by measuring.

    `timer` replaces the GPU's clock in tests. Returns the choice made for each product.
    """
    started = time.perf_counter()
    groups = groups_of(linears)
    kept = ProductTable(table, environment(device))
    chosen: dict[str, Choice] = {}
    num_measured = 0
    for group in groups:
        for num_rows in list(group[0].configs):
            name = name_of(group[0].weights, num_rows)
            choice = known(kept.find(name))
            if choice is None and time.perf_counter() - started < BUDGET_S:
                measured = list(measurements(group, num_rows, timer or seconds_on_gpu))
                if measured:  # or nothing fits into the memory that is free now
                    choice = fastest(measured)
                    kept.put(name, choice)
                    num_measured += 1
                    logger.info("%s: %s", name, ProductConfig(*choice) if choice else "torch")
            if choice is not None:
                chosen[name] = choice
                for linear in group:
                    linear.configs[num_rows] = ProductConfig(*choice) if choice else None
    kept.save()
    check_device()  # frees what the measurements took, before the KV cache takes the rest
    if groups:
        seconds = time.perf_counter() - started
        logger.info("%d products chosen, %d of them measured in %.1f s", len(chosen), num_measured, seconds)
    return chosen


def groups_of(linears: Seq[object]) -> list[list[ProductLinear]]:
    """The ProductLinears of equal products, largest weights first; also those that others are made of."""
    groups = defaultdict(list)
    for linear in chain.from_iterable(map(parts_of, linears)):
        if isinstance(linear, ProductLinear):
            groups[name_of(linear.weights, 0)].append(linear)
    return sorted(groups.values(), key=lambda group: -sum(linear.weights.num_bytes for linear in group))


@torch.inference_mode()
def launch_products(linears: Seq[object]) -> None:
    """Compute each product in each of its configurations, so that their kernels are compiled."""
    for group in groups_of(linears):
        forms = {linear.bias is None: linear for linear in group}
        for linear in forms.values():
            for num_rows in linear.configs:
                linear(random_inputs(linear.weights, num_rows))


def measurements(group: Seq[ProductLinear], num_rows: int, timer: Timer) -> Iterator[TimedProduct]:
    """The times of torch and of each configuration that computes what torch does, for linears of equal shape."""
    weights = group[0].weights
    size = weights.codes.element_size() if weights.kind == "dense" else 2
    num_bytes = weights.num_bytes + num_rows * (weights.num_in + weights.num_out) * size
    device = weights.codes.device
    inputs = random_inputs(weights, num_rows)
    expected = group[0].compute(inputs, None)
    configs = configs_for(weights, num_rows, num_multiprocessors(device))
    for config in (None, *configs):
        try:
            if config is not None:
                check_product(group[0].compute(inputs, config), expected)
            seconds = timer(group, num_rows, config)
        except Exception as error:  # of Triton's compiler: a configuration less, not a model less
            logger.warning("%s not by %s: %s", name_of(weights, num_rows), config, error)
            continue
        yield TimedProduct(weights.kind, weights.num_out, weights.num_in, num_rows, config, seconds, num_bytes)


def check_product(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Raises ValueError for a product that is not torch's."""
    deviation = (found.float() - expected.float()).abs().max() / expected.float().abs().max().clamp(min=1e-6)
    if not deviation <= MAX_DEVIATION:  # nan is not either
        raise ValueError(f"it deviates from torch's product by {float(deviation):.3g} of its largest number")


def fastest(measured: Seq[TimedProduct]) -> Choice:
    """Of the fastest: torch's, which is empty, unless a kernel is faster by more than noise."""
    best = min(measured, key=lambda row: row.seconds)
    if best.config is None:
        return ()
    torchs = [row.seconds for row in measured if row.config is None]
    return () if torchs and best.seconds > (1 - MIN_GAIN) * torchs[0] else astuple(best.config)


def known(choice: Choice | None) -> Choice | None:
    """None for a choice whose numbers are no configuration."""
    return choice if choice is None or len(choice) in (0, len(ProductConfig.__slots__)) else None


def seconds_on_gpu(group: Seq[ProductLinear], num_rows: int, config: ProductConfig | None) -> float:
    """Seconds of one product, recorded and replayed as in a decode step: the CPU would be slower than the kernels."""
    weights = group[0].weights
    inputs = random_inputs(weights, num_rows)
    num_linears = max(1, min(len(group), MAX_IN_TURN, -(-CACHE_BYTES // weights.num_bytes)))
    in_turn = [group[at % len(group)] for at in range(max(num_linears, 2))]
    in_turn[0].compute(inputs, config, starts_early=False)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(torch.cuda.current_stream()), torch.cuda.graph(graph):  # the first if the second fails
        for linear in in_turn:
            linear.compute(inputs, config, starts_early=False)
    graph.replay()
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    times = []
    for _ in range(NUM_REPLAYS):
        graph.replay()  # the GPU is busy while Python launches the replay that is measured
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(float(start.elapsed_time(stop)) / 1000 / len(in_turn))
    return min(times)


def random_inputs(weights: Weights, num_rows: int) -> torch.Tensor:
    """[rows, in], the same ones each time."""
    generator = torch.Generator(weights.codes.device).manual_seed(num_rows)
    numbers = torch.randn(num_rows, weights.num_in, generator=generator, device=weights.codes.device)
    return numbers.to(weights.dtype)


@torch.inference_mode()
def measured_products(
    shapes: Seq[tuple[int, int]],
    kinds: Seq[str],
    rows: Seq[int],
    device: torch.device,
    timer: Timer | None = None,
) -> Iterator[TimedProduct]:
    """For benchmarks: the times of random bf16 weights of each shape (out, in) in each form of WEIGHTS."""
    for num_out, num_in in shapes:
        for kind in kinds:
            size = 2 * num_out * num_in
            weight = torch.empty(num_out, num_in, dtype=torch.bfloat16, device=device).normal_()
            copies = range(max(1, min(MAX_IN_TURN, CACHE_BYTES // size)))
            group = [ProductLinear(WEIGHTS[kind](weight.clone()), None) for _ in copies]
            for num_rows in rows:
                yield from measurements(group, num_rows, timer or seconds_on_gpu)


def name_of(weights: Weights, num_rows: int) -> str:
    """Equal for products that take equally long."""
    extra = "offsets" if weights.offsets is not None else "minimums" if weights.minimums is not None else ""
    group = f" in groups of {weights.group}{extra and f' with {extra}'}" if weights.group else ""
    dtype = str(weights.dtype).removeprefix("torch.")
    return f"{weights.kind}{group} {dtype} {weights.num_out}x{weights.num_in} rows {num_rows}"


def environment(device: torch.device) -> str:
    """What the times depend on besides the product."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    folder = Path(__file__).with_name("gpu")
    sources = [folder / f"{name}.py" for name in ("product_kernels", "weight_codes", "products")]
    kernels = sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    return f"{gpu}, torch {torch.__version__}, triton {TRITON_VERSION}, kernels {kernels}"


def num_multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count) if device.type == "cuda" else 1
