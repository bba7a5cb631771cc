"""A sequence alone keeps count of its tokens, the pending one included."""

import ast
from pathlib import Path

import pytest

import worker
from worker.runners.probe import probe_sequence
from worker.state.scheduled_sequence import UNREAD, ScheduledSequence
from worker.state.sequence import Sequence

COUNTED = ("num_computed", "token_ids")


@pytest.fixture
def sequence() -> Sequence:
    """Five prompt tokens, all computed, and a sixth token pending as sample 3 of the step in flight."""
    sequence = probe_sequence([11, 12, 13, 14, 15])
    sequence.advance(5)
    sequence.pending = 3
    return sequence


def test_a_pending_token_counts_but_has_no_id(sequence: Sequence) -> None:
    assert (sequence.num_tokens, sequence.num_completion_tokens, sequence.num_uncomputed) == (6, 1, 1)
    assert sequence.is_decoding
    assert sequence.token_ids == [11, 12, 13, 14, 15]
    sequence.append(16)
    assert (sequence.num_tokens, sequence.pending, sequence.token_ids[-1]) == (6, None, 16)


def test_a_row_names_its_pending_input_by_the_sample(sequence: Sequence) -> None:
    row = ScheduledSequence(sequence, 1)
    assert (row.input_ids, row.pending, row.samples) == ([UNREAD], 3, True)
    whole = row.from_start()
    assert (whole.input_ids, whole.pending) == ([11, 12, 13, 14, 15, UNREAD], 3)
    sequence.begin_at(0)
    chunk = ScheduledSequence(sequence, 4)
    assert (chunk.input_ids, chunk.pending, chunk.num_samples) == ([11, 12, 13, 14], None, 0)


def test_a_token_that_is_taken_back_voids_the_row_computed_from_it(sequence: Sequence) -> None:
    row = ScheduledSequence(sequence, 1)
    sequence.advance(1)
    sequence.take_back()
    assert row.is_void and sequence.is_wide
    again = ScheduledSequence(sequence, 1)
    assert (again.start, again.input_ids, again.samples, again.is_void) == (4, [15], True, False)


def test_no_other_code_of_the_worker_writes_the_counted_fields() -> None:
    writers = set()
    for path in Path(worker.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Attribute) and target.attr in COUNTED:
                    writers.add((path.name, target.attr))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                if (
                    isinstance(owner, ast.Attribute)
                    and owner.attr == "token_ids"
                    and node.func.attr in ("append", "pop")
                ):
                    writers.add((path.name, "token_ids"))
    writers.discard(("sampler.py", "token_ids"))  # of PendingSamples: a tensor
    assert writers == {("sequence.py", "num_computed"), ("sequence.py", "token_ids")}
