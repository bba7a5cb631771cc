"""Other blocks, warps, stages and splits of the kernels than those that we launch: the part `variants` of bench.gpu.

Not part of a first run. Each variant is timed over the same data as the kernel as it is, and its result compared with
that one's; docs/kernels.md has the registers of what is launched now. Products have their variants in `product times`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch

from bench.gpu_alone import alone_seconds, can_run_triton, error_of
from bench.gpu_attention import attention_runs
from bench.gpu_bench import Bench
from bench.gpu_kernels import EPS, Shape, rotation_inputs, run_rotation
from worker.state.kv_cache import LayerShape

COPIES = 8
Runs = Callable[[], Sequence[Callable[[], object]]]


@dataclass(frozen=True)
class Variant:
    """Attributes of modules that are replaced while it runs."""

    name: str
    changes: tuple[tuple[ModuleType, str, Any], ...] = ()

    @contextmanager
    def used(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module, name, value in self.changes:
                stack.enter_context(patch.object(module, name, value))
            yield


def compare(bench: Bench, case: str, variants: Sequence[Variant], runs: Runs) -> None:
    """`runs` makes the calls, one for each copy of the data; the first variant is the kernel as it is."""
    report, calls = bench.report, runs()
    usual: Any = None
    usual_s = 0.0
    report.say("")
    report.columns(case, "us", "x", "largest difference / spread")
    for variant in variants:
        try:
            with variant.used():
                result: Any = calls[0]()
                found = result[-1] if isinstance(result, tuple) else result
                seconds = alone_seconds(calls, bench.device)
        except Exception as error:
            report.row(variant.name, "", "", f"FAILED: {type(error).__name__}: {str(error)[:120]}")
            bench.synchronize()  # raises if the device is lost
            continue
        usual, usual_s = (found, seconds) if usual is None else (usual, usual_s)
        difference = error_of(found, usual) if isinstance(found, torch.Tensor) else 0.0
        report.row(variant.name, seconds * 1e6, seconds / usual_s, f"{difference:.2g}")
        report.number(f"variant/{case}/{variant.name}/us", seconds * 1e6, difference=difference)


def shaped(changes: Mapping[str, int]) -> Variant:
    """Of the attention kernel's launch."""
    from worker.kernels.gpu import paged_attention

    usual = paged_attention.launch_shape

    def launch_shape(*sizes: Any) -> Any:
        return {**usual(*sizes), **changes}

    name = ", ".join(f"{key} {value}" for key, value in changes.items())
    return Variant(name, ((paged_attention, "launch_shape", launch_shape),))


@torch.inference_mode()
def attention(bench: Bench) -> None:
    if not can_run_triton(bench):
        return
    from worker.attention import kernel

    is_tiny = bench.shape == "tiny"
    heads, shape = (4, LayerShape(2, 32, 32)) if is_tiny else (32, LayerShape(8, 128, 128))
    shapes = [shaped({"BLOCK_N": size}) for size in ((16,) if is_tiny else (32, 64, 128))]
    if not is_tiny:
        shapes += [shaped({"num_warps": 8}), shaped({"num_warps": 2}), shaped({"num_stages": 2})]
        shapes += [shaped({"num_stages": 4}), shaped({"BLOCK_N": 128, "num_warps": 8})]
        shapes += [shaped({"BLOCK_N": 32, "num_stages": 4})]
    splits = [
        Variant(
            f"{num} splits",
            tuple((kernel, name, lambda *_, num=num, **__: num) for name in ("choose_splits", "splits_to_fill")),
        )
        for num in ((2,) if is_tiny else (1, 4, 8, 16, 32, 64))
    ]
    for dtype in (torch.bfloat16,) if is_tiny else (torch.bfloat16, torch.float8_e4m3fn):
        for batch, num_keys in ((2, 40),) if is_tiny else ((1, 1024), (32, 1024), (1, 32768), (64, 1024)):
            step = [(1, num_keys)] * batch
            runs = partial(attention_runs, bench, heads, shape, step, dtype, 1 if is_tiny else COPIES)
            name = f"attention, {batch} x {num_keys}, {str(dtype).removeprefix('torch.')}"
            compare(bench, name, [Variant("as it is"), *shapes, *splits], runs)
    for num_queries, num_keys in () if is_tiny else ((512, 512), (4096, 4096)):
        runs = partial(attention_runs, bench, heads, shape, [(num_queries, num_keys)], torch.bfloat16, 2)
        compare(bench, f"attention, chunk of {num_queries}", [Variant("as it is"), *shapes], runs)


@torch.inference_mode()
def elementwise(bench: Bench) -> None:
    if not can_run_triton(bench):
        return
    from worker.kernels.gpu import activations, norms, rotary

    shape, is_tiny = Shape(bench), bench.shape == "tiny"
    copies = 1 if is_tiny else COPIES
    warps = [Variant(f"{num} warps", ((norms, "warps_for", lambda _, num=num: num),)) for num in (4, 8, 16, 32)]
    blocks = [Variant(f"BLOCK {size}", ((activations, "BLOCK", size),)) for size in (512, 2048, 4096)]
    heads = [Variant(f"HEADS_BLOCK {num}", ((rotary, "HEADS_BLOCK", num),)) for num in (4, 16, 32)]
    weight = shape.random(shape.hidden)
    for rows in (2,) if is_tiny else (1, 32):
        pairs = [(shape.random(rows, shape.hidden), shape.random(rows, shape.hidden)) for _ in range(copies)]
        gates = [shape.random(rows, 2 * shape.mlp) for _ in range(copies)]
        turns = [rotation_inputs(shape, rows, torch.bfloat16, has_norms=False) for _ in range(copies)]
        usual = Variant("as it is")

        def norm_runs(pairs: Any = pairs) -> list[Callable[[], object]]:
            return [partial(norms.add_norm, hidden, change, weight, EPS) for hidden, change in pairs]

        def gate_runs(gates: Any = gates) -> list[Callable[[], object]]:
            return [partial(activations.gated, both, "silu") for both in gates]

        def turn_runs(turns: Any = turns) -> list[Callable[[], object]]:
            return [partial(run_rotation, shape, *each) for each in turns]

        compare(bench, f"add_norm, {rows} rows", [usual, *(warps[:1] if is_tiny else warps)], norm_runs)
        compare(bench, f"swiglu, {rows} rows", [usual, *(blocks[:1] if is_tiny else blocks)], gate_runs)
        compare(bench, f"rotate_and_write, {rows} rows", [usual, *(heads[:1] if is_tiny else heads)], turn_runs)
