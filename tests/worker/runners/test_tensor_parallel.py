"""Two ranks that share a model generate what one generates."""

import json
import subprocess
import sys

import pytest

from tests.service import ROOT, free_port
from tests.worker.conftest import Bench, ModelFolder, prompt_of
from tests.worker.shared_engine import answers
from worker.state.scheduled_sequence import ScheduledSequence
from worker.state.step_wire import pack_rows, unpack_rows

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("family", ["llama"])
def test_two_ranks_generate_what_one_generates(model_folder: ModelFolder, family: str) -> None:
    folder = model_folder(family)
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    ran = subprocess.run(
        [sys.executable, *command, "-m", "tests.worker.shared_engine", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    found = [line for line in ran.stdout.splitlines() if line.startswith("{")]
    assert found, ran.stderr[-3000:]
    assert json.loads(found[0]) == answers(Bench(folder))


def test_a_packed_step_unpacks_to_the_same_inputs(model_folder: ModelFolder) -> None:
    bench = Bench(model_folder())
    bench.add("a", prompt_of(30), max_tokens=4, ignore_eos=True)
    bench.add("b", prompt_of(5), max_tokens=4, ignore_eos=True)
    bench.step(2)
    rows = bench.engine.scheduler.schedule()
    rows[0].sequence.draft = [7, 8]
    twins = unpack_rows(pack_rows(rows))
    assert len(twins) == len(rows) > 1
    for row, twin in zip(rows, twins, strict=True):
        assert seen(row) == seen(twin)


def seen(row: ScheduledSequence) -> tuple[object, ...]:
    sequence = row.sequence
    tokens = sequence.token_ids[row.start : row.start + row.num_tokens]
    return tokens, sequence.draft, row.samples, row.num_inputs, row.start, sequence.block_ids
