"""Reports of runs: the reasons of stalls, and what a run that did not end was waiting for."""

import time
from pathlib import Path

import pytest

from tests.chaos.bounded import TooLong, bounded
from tests.chaos.harness import Harness, Options, ValkeyEnded
from tests.chaos.pulse import DOWN, LEASE, LOADING, UP, Pulse

LINES = [f"10.0 {UP}\n", f"11.0 {DOWN}\n", f"11.5 {LOADING}\n", f"14.0 {UP}\n", f"15.0 {UP}\n"]


def test_a_stall_is_set_against_what_the_service_was() -> None:
    assert Pulse(LINES).within(10.8, 14.5) == [(LOADING, 2.5), (UP, pytest.approx(0.7)), (DOWN, 0.5)]
    assert Pulse(LINES).within(20.0, 21.0) == [(UP, 1.0)]
    assert Pulse().within(20.0, 21.0) == []


def test_what_is_noticed_late_began_when_all_seemed_well() -> None:
    assert Pulse([*LINES, f"14.2 {LEASE}\n"]).within(14.0, 16.0) == [
        (LEASE, pytest.approx(1.8)),
        (UP, pytest.approx(0.2)),
    ]
    assert Pulse([*LINES[:3], f"11.1 {LEASE}\n"]).within(11.0, 12.0) == [(DOWN, 0.5), (LEASE, 0.5)]


def test_a_run_that_does_not_end_says_what_it_waited_for() -> None:
    with (
        pytest.raises(TooLong, match="it had 0 s and was waiting for 3 clients"),
        bounded(0.05, lambda: "waiting for 3 clients"),
    ):
        time.sleep(30)


def test_a_valkey_that_cannot_start_is_not_waited_for(tmp_path: Path) -> None:
    """Valkey refuses a file that is not an append-only file."""
    folder = tmp_path / "appendonlydir"
    folder.mkdir()
    (folder / "appendonly.aof.manifest").write_text("nonsense\n")
    harness = Harness(Options(data_dir=tmp_path))
    try:
        with pytest.raises(ValkeyEnded, match="status 1: .*manifest"):
            harness.start_valkey()
    finally:
        harness.stop()
