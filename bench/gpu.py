"""Checks and timings of the engine on a machine with a GPU: `python -m bench.gpu`

It has never run on a GPU: none could be had. What it calls was checked against the sources of torch 2.13.

Random weights of an 8B Llama's shape; nothing is downloaded. Three parts, each a process of its own with a time limit,
together under ten minutes: `kernels` (torch's paged attention and fp8 products alone), `tokens` (the engine's answers
against the model itself, in float32 and bf16), `speed` (start, memory, roofline at batch 1, 8 and 32, where a step's
time goes, sampling, throughput, growth to 32K tokens, fp8 weights). What fails says so and the rest goes on; `--part`
runs one of them. Please send what it prints.
"""

import argparse
import faulthandler
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial

import torch

from bench.gpu_checks import fp8_products, kernels, tokens
from bench.gpu_speed import Speed
from bench.report import machine

LIMITS_S = {"kernels": 90, "tokens": 150, "speed": 340}
WIDTH = 200  # characters of a failure's last line


def say_machine(device: torch.device) -> None:
    print(machine())
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        print(f"{properties}, CUDA {torch.version.cuda}, {torch.cuda.device_count()} GPUs", flush=True)


def section(title: str, run: Callable[[], object]) -> bool:
    """Run one section; False if it failed. The error is printed, and later sections still run."""
    print(f"\n## {title}\n", flush=True)
    started = time.perf_counter()
    try:
        run()
    except Exception as error:
        traceback.print_exc()
        print(f"FAILED: {type(error).__name__}: {str(error)[:WIDTH]}", flush=True)
        return False
    print(f"\n({time.perf_counter() - started:.1f} s)", flush=True)
    return True


def run_part(part: str, shape: str, device: torch.device) -> bool:
    """In this process."""
    if part == "kernels":
        ended = [section("Attention over pages", partial(kernels, device))]
        ended.append(section("fp8 products", partial(fp8_products, device)))
        return all(ended)
    if part == "tokens":
        types = (torch.float32, torch.bfloat16)
        ended = [section(f"Tokens, {dtype}", partial(tokens, shape, device, dtype)) for dtype in types]
        return all(ended)
    built: list[Speed] = []
    if not section("Start and memory", lambda: built.append(Speed(shape, device))):
        return False
    speed = built[0]
    tables = {
        "Roofline, 1024 tokens of context": speed.roofline,
        "Where a step's time goes": speed.shares,
        "Sampling": speed.sampling,
        "Throughput": speed.throughput,
        "Growth": speed.growth,
        "fp8 weights": speed.fp8,
    }
    ended = [section(title, run) for title, run in tables.items()]
    return all(ended)


def run_apart(part: str, words: list[str]) -> bool:
    """In a process of its own: after an illegal access nothing works any more in the one where it happened."""
    command = [sys.executable, "-m", "bench.gpu", "--part", part, *words]
    try:
        return subprocess.run(command, timeout=LIMITS_S[part] + 10).returncode == 0
    except subprocess.TimeoutExpired:
        print(f"\nFAILED: {part} took longer than {LIMITS_S[part]} s", flush=True)
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=list(LIMITS_S))
    parser.add_argument("--shape", choices=["8b", "tiny"], default="8b")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    device = torch.device(args.device)
    if args.part is not None:
        faulthandler.dump_traceback_later(LIMITS_S[args.part], exit=True)  # where it hung
        return 0 if run_part(args.part, args.shape, device) else 1
    say_machine(device)
    ended_well = {part: run_apart(part, ["--shape", args.shape, "--device", args.device]) for part in LIMITS_S}
    print("\n" + ", ".join(f"{part}: {'ended' if well else 'FAILED'}" for part, well in ended_well.items()))
    return 0 if all(ended_well.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
