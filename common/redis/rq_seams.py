"""RQ's formats that the scripts write in its place."""

from datetime import UTC, datetime


def now_iso() -> str:
    """RQ's time format."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
