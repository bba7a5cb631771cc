"""`not_before` is unix seconds, or a time exactly as RFC 3339 writes it."""

import pytest

from api.schema.chat import ChatRequest
from api.schema.parse import parse
from common.errors import InvalidRequest

AT = 1_764_316_800  # 2025-11-28T08:00:00Z; times that have passed are now


def read(text: str) -> float | None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "not_before": text}
    return parse(ChatRequest, body).not_before


@pytest.mark.parametrize(
    ("text", "more_s"),
    [
        ("2025-11-28T08:00:00Z", 0),
        ("2025-11-28t08:00:00z", 0),
        ("2025-11-28T08:00:00.5Z", 0.5),
        ("2025-11-28T10:30:00+02:30", 0),
        ("2025-11-27T23:00:00-09:00", 0),
    ],
)
def test_times_of_rfc_3339(text: str, more_s: float) -> None:
    assert read(text) == AT + more_s


@pytest.mark.parametrize(
    "text",
    [
        "2025-11-28T08:00:00\0Z",
        "2025-W48-5T08:00:00Z",
        "20251128T080000Z",
        "2025-11-28 08:00:00Z",
        "2025-11-28T08:00:00",
        "2025-11-28T08:00Z",
        "2025-11-28",
        "2025-02-30T08:00:00Z",
        "2025-11-28T08:00:00+0230",
        "2025-11-28T08:00:00+24:00",
        "2025-11-28T24:00:00Z",
        "2025-11-28T08:00:00Z\n",
        "\u0662025-11-28T08:00:00Z",
        "",
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="unix seconds"):
        read(text)
