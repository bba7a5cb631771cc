"""Which ends of jobs are events, and of which type."""

from dataclasses import replace

import pytest

from common.outbox.entries import EndedJob, job_of
from dispatcher.webhooks.applier import apply, type_of
from tests.dispatcher.webhooks.rig import OWNER, Rig, add

JOB = replace(job_of("1-0", {}), id="resp_1", owner=OWNER, kind="response", state="finished", is_background=True)


@pytest.mark.parametrize(
    ("kind", "state", "reason", "expected"),
    [
        ("response", "finished", "stop", "response.completed"),
        ("response", "finished", "length", "response.incomplete"),
        ("response", "failed", "", "response.failed"),
        ("response", "cancelled", "", "response.cancelled"),
        ("chat", "finished", "length", "chat.completion.completed"),
        ("chat", "failed", "", "chat.completion.failed"),
        ("chat", "cancelled", "", "chat.completion.failed"),
        ("completion", "finished", "stop", "chat.completion.completed"),
        ("message", "finished", "stop", None),
        ("embedding", "finished", "stop", None),
    ],
)
def test_an_end_has_its_event(kind: str, state: str, reason: str, expected: str | None) -> None:
    job: EndedJob = replace(JOB, kind=kind, state=state, finish_reason=reason)  # type: ignore[arg-type]
    assert type_of(job) == expected


@pytest.mark.parametrize("change", [{"is_background": False}, {"batch": "batch_1"}])
def test_what_somebody_waits_for_and_lines_of_batches_are_no_events(change: dict[str, object]) -> None:
    assert type_of(replace(JOB, **change)) is None  # type: ignore[arg-type]


def test_a_page_that_is_applied_again_adds_nothing(rig: Rig) -> None:
    add(rig.records, "http://127.0.0.1:9/")
    for _ in range(2):
        with rig.records.begin() as connection:
            apply(connection, [JOB, replace(JOB, id="resp_2", ended=5.0)])
    assert len(rig.deliveries()) == 2


def test_a_transaction_that_fails_leaves_no_event(rig: Rig) -> None:
    """The event and what it tells of are one transaction: neither is without the other."""
    add(rig.records, "http://127.0.0.1:9/")
    with pytest.raises(RuntimeError), rig.records.begin() as connection:
        apply(connection, [JOB])
        raise RuntimeError
    assert rig.deliveries() == []
