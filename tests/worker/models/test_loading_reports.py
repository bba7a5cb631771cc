"""What transformers reports while it loads: only the bar that counts weights is replaced."""

from transformers.utils.logging import tqdm

from worker.models.loading_reports import reports_weights


def test_other_progress_bars_stay_as_they_are() -> None:
    told: list[str] = []
    with reports_weights(lambda what, share: told.append(what)):
        assert list(tqdm(range(3), desc="Fetching files", disable=True)) == [0, 1, 2]
    assert told == ["weights"]
