"""Checks and timings of the engine on a GPU: `python -m bench.gpu --out gpu.jsonl --budget 480`

Random weights of an 8B Llama's shape; nothing is downloaded. The parts, in this order: `kernels` (each Triton kernel
against float64 or float32, then alone against the card's bandwidth), `speed` (start, decode steps, profile, first
token, throughput, prompts beside decodes), `bf16` (tokens of the engine against the model's own), `weights` (fp8, int8,
int4, an fp8 KV cache), `drafts`, `float32` (tokens again); and `variants`, only if named: other blocks, warps, stages
and splits. Each part is a process of its own; a section that fails, hangs or takes its process with it costs that
section only. `--only` takes names of parts and sections. What does not fit into `--budget` is skipped, the least
valuable first, and named. Every number is a JSON line in `--out` as soon as it is measured.
"""

import argparse
import faulthandler
import logging
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import torch

from bench.gpu_bench import SIZES, Bench
from bench.gpu_report import Report, print_summary, read_lines
from bench.gpu_sections import fitting, named, section_of
from bench.report import machine

WIDTH = 300  # characters of a failure's last line
DEPTH = 6  # calls of a traceback
PATIENCE = 3  # times its estimate, that a section may take
SPARE_S = 40  # added to that
SCALE = MappingProxyType({"8b": 1.0, "tiny": 0.05})  # of the sections' estimates
DEVICE_LOST = 3  # exit code: after an illegal access nothing works any more in a process


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def say_machine(device: torch.device) -> None:
    print(machine())
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        print(f"{properties}, CUDA {torch.version.cuda}, driver {driver_version()}", flush=True)


def driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except OSError:
        return "unknown"


def run_section(name: str, bench: Bench) -> bool:
    """False if it failed. The error is printed, and later sections still run."""
    section, report = section_of(name), bench.report
    report.line({"began": name})
    faulthandler.dump_traceback_later(PATIENCE * section.seconds + SPARE_S, exit=True)  # says where it hangs
    started = time.perf_counter()
    failure = ""
    try:
        if section.uses_engine:
            _ = bench.engine  # the title says FALLBACK if it runs so
        report.title(section.title)
        section.run(bench)
        bench.synchronize()
    except Exception as error:
        failure = in_one_line(error)
        report.say("".join(traceback.format_tb(error.__traceback__)[-DEPTH:]))  # without torch's long messages
        if error.__cause__ is not None:
            report.say(f"from {in_one_line(error.__cause__)}")
        report.say(f"FAILED: {section.title}: {failure}")
    finally:
        faulthandler.cancel_dump_traceback_later()  # else it would end the process in the middle of something else
    seconds = time.perf_counter() - started
    report.line({"ended": name, "seconds": round(seconds, 2), "failure": failure})
    report.say(f"\n({name}: {seconds:.1f} s)")
    return not failure


def in_one_line(error: BaseException) -> str:
    """Its class and the begin of its message, some of which are pages long."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:WIDTH]


def is_lost(device: torch.device) -> bool:
    """True if the device no longer answers this process."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
        torch.zeros(1, device=device).item()
    except RuntimeError:
        return True
    return False


def run_part(names: Sequence[str], bench: Bench, until: float) -> int:
    """The sections of the first one's part, in this process. Returns an exit code."""
    part = section_of(names[0]).part
    waiting = list(names)
    code = 0
    for name in names:
        if section_of(name).part == part:
            if name not in fitting(waiting, until - time.time(), SCALE[bench.shape]):
                bench.report.line({"began": name})
                skip(name, bench.report)
            elif not run_section(name, bench):
                code = 1
                if is_lost(bench.device):
                    return DEVICE_LOST
            waiting.remove(name)
    return code


def skip(name: str, report: Report) -> None:
    report.line({"skipped": name})
    report.say(f"\nskipped, no time left: {section_of(name).title}")


def run_apart(names: Sequence[str], args: argparse.Namespace, out: Path, until: float) -> None:
    """One part in a process of its own, which reads its start from the clock."""
    command = [sys.executable, "-m", "bench.gpu", "--part-of", ",".join(names), "--until", str(until)]
    command += ["--shape", args.shape, "--device", args.device, "--out", str(out), "--began", str(time.time())]
    try:
        subprocess.run(command, timeout=max(5.0, until - time.time() + 5))
    except subprocess.TimeoutExpired:
        print("\nFAILED: the time is over", flush=True)


def run_all(names: Sequence[str], args: argparse.Namespace, out: Path, until: float) -> bool:
    """Part after part; after a process that ended early, the sections that it had not begun. False if any failed."""
    waiting = list(names)
    report = Report(out, args.device)
    while waiting:
        chosen = fitting(waiting, until - time.time(), SCALE[args.shape])
        if not chosen:
            break
        num_before = len(read_lines(out))
        run_apart(chosen, args, out, until)
        begun = {line["began"] for line in read_lines(out)[num_before:] if "began" in line}
        if not begun:
            report.say(f"\nFAILED: {chosen[0]}: its process did not start")
            begun = {chosen[0]}
        waiting = [name for name in waiting if name not in begun]  # more may fit than the estimates said
    for name in waiting:
        skip(name, report)
    report.close()
    return not failed(out)


def failed(out: Path) -> list[str]:
    """Sections that began and did not end well."""
    lines = read_lines(out)
    well = {line["ended"] for line in lines if "ended" in line and not line["failure"]}
    skipped = {line["skipped"] for line in lines if "skipped" in line}
    return sorted({line["began"] for line in lines if "began" in line} - well - skipped)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="parts and sections, with commas")
    parser.add_argument("--out", type=Path, default=None, help="JSON lines; a new file")
    parser.add_argument("--budget", type=float, default=540, help="seconds in all")
    parser.add_argument("--shape", choices=list(SIZES), default="8b")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--part-of", default="", help=argparse.SUPPRESS)  # in the process of a part
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--began", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    device = torch.device(args.device)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("worker").setLevel(logging.INFO)  # runners that were tried, and how products are computed
    warnings.filterwarnings("ignore", message=".*(Synchronization debug mode|Profiler clears events).*")
    if args.part_of:
        report = Report(args.out, device_name(device))
        bench = Bench(args.shape, device, report, time.time() - args.began)
        return run_part(args.part_of.split(","), bench, args.until)
    until = time.time() + args.budget
    try:
        names = named([word for word in args.only.split(",") if word])
    except ValueError as error:
        parser.error(f"--only: {error}")
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(
            f"torch {torch.__version__} sees no GPU here; --shape tiny --device cpu is a rehearsal without one"
        )
    if args.out is not None and args.out.exists():
        parser.error(f"{args.out} is there already")
    say_machine(device)
    out = args.out or Path(tempfile.mkdtemp()) / "gpu.jsonl"
    well = run_all(names, args, out, until)
    print_summary(out, device_name(device))
    if not well:
        print(f"\nFAILED: {', '.join(failed(out))}")
    print(f"\n{args.budget - (until - time.time()):.0f} s, process {os.getpid()}")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
