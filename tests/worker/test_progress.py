"""The progress of a start: it never goes back, and reports are not too frequent."""

import pytest

from common.settings import DEMO_MODEL
from worker import progress
from worker.engine.engine import Engine
from worker.models.loader import EngineConfig, load


@pytest.fixture
def reports(monkeypatch):
    monkeypatch.setattr(progress, "PAUSE_S", 0.0)
    return []


def test_a_load_goes_from_the_tokenizer_to_ready_and_never_back(reports):
    def tell(what, share):
        reports.append((what, share))

    config = EngineConfig(max_num_seqs=2, threads=1)
    engine = Engine(load(str(DEMO_MODEL), ("m",), config, tell), config)
    engine.warm_up(tell)
    shares = [share for _, share in reports]
    assert shares == sorted(shares) and (shares[0], shares[-1]) == (0.0, 1.0)
    parts = {what.partition(",")[0] for what, _ in reports}
    assert {"tokenizer", "weights", "ready"} <= parts
    assert any(what.startswith("weights, 10 of ") for what, _ in reports), "transformers' own count is not reported"


def test_reports_of_one_stage_have_a_pause_between_them():
    reports = []
    items = progress.counted("weights", range(1000), 1000, (0.0, 1.0), lambda *said: reports.append(said))
    assert list(items) == list(range(1000)) and len(reports) <= 1
