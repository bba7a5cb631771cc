"""Swap-in times of models, and the memory after many swaps.

    python -m bench.shelf_loads MODEL [MODEL ...]   # each from cold files, from files in memory, and from kept weights
    python -m bench.shelf_loads A B --swaps 100     # and the memory of this process while the models take turns

A swap-in ends when the first step can run: weights, kernels, proof of the runner, warm-up. Beside it stands what the
link alone would take: the disk for cold files, reading memory once for the others, on a GPU a copy from pinned memory.
"""

import argparse
import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from bench.report import machine, table
from bench.roofline import read_bandwidth
from common.model.folder import size_of_weights
from worker.device import choose_device, return_memory
from worker.engine.interface import AnyEngine
from worker.kept.keep import Keep
from worker.models.loader import EngineConfig
from worker.opening import open_engine
from worker.shelf.memory import resident_bytes

GB = 1e9
KV_BYTES = 2**28
COPIED_BYTES = 2**30


@dataclass
class Load:
    """One swap-in: its time, and when each stage of it began, in seconds."""

    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)

    def longest(self) -> str:
        """The stages that took longest."""
        names, starts = list(self.stages), [*self.stages.values(), self.seconds]
        lengths = {name: after - at for name, at, after in zip(names, starts, starts[1:], strict=False)}
        most = sorted(lengths, key=lengths.__getitem__, reverse=True)[:3]
        return ", ".join(f"{name} {lengths[name]:.2f}" for name in most)


def swap_in(model: str, config: EngineConfig, keep: Keep | None) -> tuple[AnyEngine, Load]:
    load, started = Load(), time.perf_counter()

    def on_progress(what: str, share: float) -> None:
        load.stages.setdefault(what.partition(",")[0], time.perf_counter() - started)

    engine = open_engine(model, (Path(model).name,), config, on_progress, keep)
    on_progress("warm-up", 1.0)
    engine.warm_up(on_progress)
    load.seconds = time.perf_counter() - started
    return engine, load


def forget_files(model: str) -> None:
    """Drop a model's files from the page cache."""
    for path in files_of(model):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def files_of(model: str) -> list[Path]:
    return [Path(model)] if Path(model).is_file() else sorted(Path(model).glob("*.safetensors"))


def disk_bandwidth(model: str) -> float:
    """Bytes per second of reading the files from the disk."""
    forget_files(model)
    started, num_bytes = time.perf_counter(), 0
    for path in files_of(model):
        with path.open("rb", buffering=0) as file:
            while piece := file.read(2**23):
                num_bytes += len(piece)
    return num_bytes / (time.perf_counter() - started)


def link_bandwidth(device: torch.device) -> float:
    """Bytes per second from host memory to the device; on a CPU of reading memory once."""
    if device.type != "cuda":
        return read_bandwidth(device)
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(source, device=device)
    best = 0.0
    for _ in range(5):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        target.copy_(source, non_blocking=True)
        torch.cuda.synchronize(device)
        best = max(best, COPIED_BYTES / (time.perf_counter() - started))
    return best


def rows_of(model: str, config: EngineConfig, device: torch.device) -> list[tuple[object, ...]]:
    """Of the three ways to swap a model in."""
    num_bytes, keep = size_of_weights(model), Keep.none()
    disk, link = disk_bandwidth(model), link_bandwidth(device)
    ways: tuple[tuple[str, Callable[[], None], float], ...] = (
        ("cold, from the disk", lambda: forget_files(model), disk),
        ("cold, files in memory", lambda: None, link),
        ("warm", lambda: None, link),
    )
    rows: list[tuple[object, ...]] = []
    for name, prepare, bandwidth in ways:
        if name != "warm":
            for kept in keep.sizes():
                keep.drop(kept)
        prepare()
        engine, load = swap_in(model, config, keep)
        engine.close()
        del engine
        return_memory()
        rate = num_bytes / load.seconds
        share = f"{rate / bandwidth:.0%}"
        rows.append((Path(model).name, name, f"{load.seconds:.2f}", f"{rate / GB:.2f}", f"{bandwidth / GB:.1f}", share,
                     load.longest()))  # fmt: skip
    return rows


def swaps(models: list[str], config: EngineConfig, num_swaps: int) -> list[tuple[object, ...]]:
    """Memory of this process and of what it keeps, before swaps and after."""
    keep, started = Keep.none(), time.perf_counter()
    rows: list[tuple[object, ...]] = []
    for number in range(num_swaps + 1):
        engine, _ = swap_in(models[number % len(models)], config, keep)
        engine.close()
        del engine
        return_memory()
        if number in {len(models), num_swaps // 4, num_swaps // 2, num_swaps}:
            kept = sum(keep.sizes().values())
            each = (time.perf_counter() - started) / (number + 1)
            rows.append((number, f"{resident_bytes() / 1e6:.1f}", f"{kept / 1e6:.1f}", f"{each:.2f}"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.shelf_loads")
    parser.add_argument("models", nargs="+", help="folders or .gguf files")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--swaps", type=int, default=0)
    args = parser.parse_args()
    device = choose_device(args.device)
    config = EngineConfig(device=args.device, kv_memory_bytes=KV_BYTES)
    gc.collect()
    gc.freeze()  # as the shelf does: else each close searches the objects of torch
    engine, _ = swap_in(args.models[0], replace(config), None)  # imports and compiles what all loads need
    engine.close()
    del engine
    print(machine(), device, sep=", ")
    rows = [row for model in args.models for row in rows_of(model, config, device)]
    print(table(("model", "from", "s", "GB/s", "link GB/s", "share", "longest stages, s"), rows))
    if args.swaps:
        print(table(("swaps", "MB of this process", "MB kept", "s a swap"), swaps(args.models, config, args.swaps)))


if __name__ == "__main__":
    main()
