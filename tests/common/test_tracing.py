"""Traces need an address and OpenTelemetry; without them the service runs and says why there are none."""

import pytest

from common import tracing
from common.settings import read_settings
from common.tracing import traces_of


@pytest.mark.parametrize(
    ("address", "has_packages", "said"),
    [
        ("collector:4317", True, "is not an address such as http://127.0.0.1:4318"),
        ("http://[::1", True, "is not an address such as http://127.0.0.1:4318"),
        ("http://127.0.0.1:4318", False, "run `make traces`"),
    ],
)
def test_a_collector_that_cannot_be_used_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str, has_packages: bool, said: str
) -> None:
    """The machine may export the name for other programs."""
    monkeypatch.setattr(tracing, "has_opentelemetry", lambda: has_packages)
    assert traces_of(read_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": address}), "api") is None
    assert [said in record.getMessage() for record in caplog.records] == [True]


def test_no_collector_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert traces_of(read_settings({}), "api") is None and not caplog.records
