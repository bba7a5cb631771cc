"""What the worker measures of itself."""

import pytest

from worker.jobs.telemetry import resident_bytes


def test_memory_is_counted_in_pages_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """On ARM a page may have 16 or 64 KiB."""
    used = resident_bytes()
    monkeypatch.setattr("worker.jobs.telemetry.os.sysconf", {"SC_PAGE_SIZE": 64 * 1024}.__getitem__)
    assert resident_bytes() > 8 * used
