"""Drafts as long as there is room for: what tests see does not depend on measured times."""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import pytest

from worker.drafting import drafter
from worker.drafting.lengths import Lengths
from worker.state.sequence import Sequence


@dataclass(slots=True)
class Longest(Lengths):
    """Measures nothing."""

    def choose(self, sequences: Seq[Sequence], rooms: Seq[int]) -> list[int]:
        lengths, num_left = [], self.num_budget
        for room in rooms:
            lengths.append(min(room, num_left))
            num_left -= lengths[-1]
        return lengths


@pytest.fixture(autouse=True)
def longest_drafts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafter, "Lengths", Longest)
