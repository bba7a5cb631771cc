"""The figures of docs/kernels.md are those of the kernels, and no kernel spills."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.kernel_cases import all_cases
from bench.kernel_table import DOC, HEADERS, SHARED_BYTES, resources, table_of, with_table

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[4]


def printed_by(module: str) -> str:
    """In a process in which kernels are not interpreted, as they are in these tests, but compiled."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    command = [sys.executable, "-m", module]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def rows_of(printed: str) -> list[dict[str, str]]:
    lines = [line.strip("| ").split(" | ") for line in printed.strip().splitlines()]
    return [dict(zip(HEADERS, line, strict=True)) for line in lines[2:]]


@pytest.mark.timeout(600)
def test_the_document_has_the_figures_of_the_kernels_as_they_are() -> None:
    assert printed_by("bench.kernel_table").strip() == table_of(DOC.read_text())


def test_no_kernel_of_the_document_spills_and_each_fits_a_multiprocessor() -> None:
    rows = rows_of(table_of(DOC.read_text()))
    assert [row["case"] for row in rows] == [case.name for case in all_cases()]
    for row in rows:
        assert (row["stack"], row["LDL+STL"]) == ("0", "0"), row
        assert int(row["shared"]) <= SHARED_BYTES, row


def test_a_kernel_that_spills_is_seen_to() -> None:
    small, big = rows_of(printed_by("tests.worker.kernels.gpu.spilling"))
    assert (small["stack"], small["LDL+STL"]) == ("0", "0")
    assert int(big["stack"]) > 0 and int(big["LDL+STL"]) > 0


def test_the_tools_words_are_read() -> None:
    assert resources(" Function k:\n  REG:32 STACK:8 SHARED:0 LOCAL:0 CONSTANT[0]:556 TEXTURE:0")["STACK"] == 8


def test_only_the_table_of_the_document_is_replaced() -> None:
    text = DOC.read_text()
    assert table_of(with_table(text, "new")) == "new"
    assert with_table(with_table(text, "new"), table_of(text)) == text
