"""Requests for later are admitted once, whatever is killed. `python -m tests.chaos.calendar` runs it at any size."""

import pytest

from tests.chaos.calendar import Calendar, run


@pytest.mark.timeout(120)
def test_none_is_missed_and_none_runs_twice() -> None:
    calendar = Calendar(num_jobs=60, num_kills=4, seconds=6)
    assert run(calendar) == []
    assert len(calendar.times) == 60 and calendar.faults.total() == 4
