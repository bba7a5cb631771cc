"""A worker killed at any point leaves keys and values that its successor may believe, and goes on with."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.worker.conftest import ModelFolder

BLOCK_SIZE = 16
Rounds = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def rounds(model_folder: ModelFolder) -> Rounds:
    command = [sys.executable, "-m", "tests.worker.engine.killed_workers", str(model_folder())]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found: Rounds = json.loads(done.stdout)
    assert all(each["was_killed"] for own in found.values() for each in own), done.stderr
    return found


@pytest.mark.parametrize("mode", ["in-turn", "overlapped", "drafted"])
def test_a_successor_goes_on_with_the_same_tokens_and_computes_less_than_a_block_of_each_answer_again(
    mode: str, rounds: Rounds
) -> None:
    own = [each for each in rounds[""] if each["mode"] == mode]
    assert own and all(each["are_same"] for each in own)
    assert max(each["num_resumed"] for each in own) == 6
    assert max(each["most_recomputed"] for each in own) < BLOCK_SIZE


def test_no_block_has_the_hash_of_other_tokens(rounds: Rounds) -> None:
    assert all(each["num_blocks"] > 0 and each["wrong_blocks"] == 0 for each in rounds[""])


@pytest.mark.parametrize("mutation", ["hash-first", "never-cleared"])
def test_hashes_that_are_written_too_early_or_cleared_too_late_are_noticed(mutation: str, rounds: Rounds) -> None:
    assert any(each["wrong_blocks"] for each in rounds[mutation])


def test_without_kept_blocks_answers_are_computed_again(rounds: Rounds) -> None:
    assert all(each["most_recomputed"] > 2 * BLOCK_SIZE for each in rounds["never-kept"])
