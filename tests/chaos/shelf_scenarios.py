"""What a swap of models asks of the queue."""

from tests.chaos.fake_worker import expected_text
from tests.chaos.scenarios import Stage, finish, turn


def a_paused_answer_goes_on_from_its_log(stage: Stage) -> None:
    """Its worker gives it back, as when its model leaves; whoever claims it next writes only what is missing."""
    first = stage.worker()
    job_id = stage.submit(1, 40)
    turn(first, 5)
    shown = [entry.seq for entry in stage.entries(job_id)]
    first.ledger.give_back(job_id)
    assert stage.field(job_id, "state") == "queued"
    assert [entry.seq for entry in stage.entries(job_id)] == shown
    finish(stage, stage.worker(), job_id)
    assert stage.text(job_id) == expected_text(1, 40)
    assert (stage.field(job_id, "crashes"), stage.field(job_id, "suspect")) == ("0", "0")


SHELF_CONTROLS = {"drop_the_log_on_giving_back": a_paused_answer_goes_on_from_its_log}
