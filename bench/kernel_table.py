"""Registers, spills and shared memory of our Triton kernels on an H100, read without one: python -m bench.kernel_table

Compiles the variants of bench/kernel_cases.py for sm_90, two at a time, and reads the machine code with the tools that
Triton's wheel brings. `--only TEXT` takes the cases whose name holds TEXT, `--write` puts the table into
docs/kernels.md. Local memory (LDL, STL) is where registers spill to: each spill costs a trip to the cache. LDG.128
reads 16 bytes a thread, LDGSTS copies to shared memory in the background, HMMA and HGMMA are products of tensor cores.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from bench.kernel_cases import KernelCase, all_cases
from bench.report import table

DOC = Path(__file__).resolve().parent.parent / "docs" / "kernels.md"
BEGIN, END = "<!-- figures: python -m bench.kernel_table --write -->", "<!-- end of the figures -->"
ARCHITECTURE = 90  # Hopper: H100, H200
SHARED_BYTES = 227 * 1024  # that one block of threads can have there
DIVISIBLE = ":16"


@dataclass(frozen=True)
class Figures:
    """Of one case. Counts are of instructions in the code, not of those that run."""

    case: str
    warps: int
    registers: int  # a thread; above 128 with 8 warps only one block fits a multiprocessor
    stack: int  # bytes a thread
    local: int  # LDL and STL
    shared: int  # bytes a block
    ldgsts: int
    ldg_128: int
    hmma: int
    hgmma: int


HEADERS = ("case", "warps", "registers", "stack", "LDL+STL", "shared", "LDGSTS", "LDG.128", "HMMA", "HGMMA")


def compiled(case: KernelCase) -> Any:
    """The kernel as Triton compiles it at launch: divisible arguments marked, constants put in."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = case.kernel.arg_names
    unknown = {*case.signature, *case.constants} ^ set(names)
    assert not unknown, f"{case.name}: arguments without a type, or of no argument: {unknown}"
    signature = {name: case.signature.get(name, "constexpr").removesuffix(DIVISIBLE) for name in names}
    attrs = {
        (at,): [["tt.divisibility", 16]]
        for at, name in enumerate(names)
        if signature[name].startswith("*") or case.signature.get(name, "").endswith(DIVISIBLE)
    }
    source = ASTSource(case.kernel, signature, dict(case.constants), attrs)
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages}
    return triton.compile(source, target=GPUTarget("cuda", ARCHITECTURE, 32), options=options)


def tool(name: str, *words: str) -> str:
    import triton

    place = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    return subprocess.run([place, *words], check=True, capture_output=True, text=True).stdout


def figures(case: KernelCase) -> Figures:
    made = compiled(case)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = resources(tool("cuobjdump", "-res-usage", file.name))
        code = tool("nvdisasm", "-c", "-ndf", file.name)  # -ndf: no labels for jumps, which take a third of its time
    return Figures(
        case.name,
        case.num_warps,
        usage["REG"],
        usage["STACK"],
        count(code, r"\b(LDL|STL)\b"),
        int(made.metadata.shared),
        count(code, r"\bLDGSTS\b"),
        count(code, r"\bLDG\.[\w.]*128\b"),
        count(code, r"\bHMMA\b"),
        count(code, r"\bHGMMA\b"),
    )


def resources(text: str) -> Mapping[str, int]:
    """'REG:32 STACK:0 SHARED:0 LOCAL:0 ...' of cuobjdump."""
    return {name: int(number) for name, number in re.findall(r"\b([A-Z]+):(\d+)", text)}


def count(code: str, pattern: str) -> int:
    return len(re.findall(pattern, code))


def figures_named(name: str) -> Figures:
    """In a process of the pool: kernels do not travel between processes, names do."""
    return figures(next(case for case in all_cases() if case.name == name))


def measured(names: list[str]) -> list[Figures]:
    with ProcessPoolExecutor(2) as pool:
        return list(pool.map(figures_named, names))


def as_table(rows: list[Figures]) -> str:
    assert len(HEADERS) == len(fields(Figures))
    return table(list(HEADERS), [astuple(row) for row in rows])


def with_table(text: str, printed: str) -> str:
    """The document with its table replaced."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{printed}\n\n{END}{rest.split(END)[1]}"


def table_of(text: str) -> str:
    return text.split(BEGIN)[1].split(END)[0].strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--write", action="store_true", help="into docs/kernels.md; all cases")
    args = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        print("TRITON_INTERPRET is set: kernels would be interpreted, not compiled", file=sys.stderr)
        return 2
    if not any(args.only in case.name for case in all_cases()):
        parser.error(f"--only: no case has {args.only!r} in its name")
    rows = measured([case.name for case in all_cases() if args.write or args.only in case.name])
    print(as_table(rows))
    if args.write:
        DOC.write_text(with_table(DOC.read_text(), as_table(rows)))
    for row in rows:
        if row.local or row.stack or row.shared > SHARED_BYTES:
            print(f"{row.case}: spills, or does not fit", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
