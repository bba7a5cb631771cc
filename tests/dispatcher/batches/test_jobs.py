"""The jobs of a batch's lines: all of a line end with its batch, and none of another's."""

from collections.abc import Sequence

import pytest
from redis import Redis

from api.jobs.generation import rq_job
from common.records.batch_work import OpenBatch
from common.redis import keys
from common.redis.store import Store
from common.redis.submission import Submission
from common.wire import GenerationRequest, SamplingParams
from dispatcher.batches.client import idempotency_key
from dispatcher.batches.jobs import LineJobs

OWNER = "0123456789abcdef0123456789abcdef"
QUEUE = "lines"


def batch_of(endpoint: str) -> OpenBatch:
    return OpenBatch("batch_1", OWNER, "openai", endpoint, "file-1", "cancelling", 1e12, None, 3, 0.0)


def submit(redis: "Redis", job_ids: Sequence[str], number: int) -> None:
    """The jobs of one line, as the API submits them: the line's key stands for the first."""
    for place, job_id in enumerate(job_ids):
        request = GenerationRequest(job_id, QUEUE, (1,), SamplingParams(max_tokens=9, seed=1))
        key = "" if place else idempotency_key("batch_1", number)
        submission = Submission(request, QUEUE, OWNER, "r", {}, background=True, idempotency_key=key)
        Store(redis).submit(submission, rq_job(redis, job_id, QUEUE))


def states(redis: "Redis", job_ids: Sequence[str]) -> list[str]:
    return [status.state for status in Store(redis).poll(job_ids)]


@pytest.mark.parametrize("is_first_cancelled", [False, True])
def test_all_jobs_of_a_line_with_several_prompts_are_cancelled(redis: "Redis", is_first_cancelled: bool) -> None:
    ids = ["cmpl-a", "cmpl-a-1", "cmpl-a-2"]
    submit(redis, ids, 1)
    submit(redis, ["cmpl-b"], 2)
    if is_first_cancelled:
        Store(redis).cancel("cmpl-a")
    LineJobs(redis).cancel(batch_of("/v1/completions"), [1], "The batch was cancelled.")
    assert states(redis, [*ids, "cmpl-b"]) == ["cancelled"] * 3 + ["queued"]


def test_other_endpoints_have_one_job_for_each_line(redis: "Redis") -> None:
    submit(redis, ["chat-a", "chat-a-1"], 1)
    LineJobs(redis).cancel(batch_of("/v1/chat/completions"), [1], "The batch was cancelled.")
    assert states(redis, ["chat-a", "chat-a-1"]) == ["cancelled", "queued"]


def test_all_jobs_of_a_recorded_line_are_forgotten(redis: "Redis") -> None:
    ids = ["cmpl-a", "cmpl-a-1", "cmpl-a-2"]
    submit(redis, ids, 1)
    jobs, batch = LineJobs(redis), batch_of("/v1/completions")
    jobs.cancel(batch, [1], "The batch was cancelled.")
    redis.delete(keys.OUTBOX)
    jobs.recorded(batch, ["cmpl-a"])
    assert jobs.forget() == {OWNER} and states(redis, ids) == ["", "", ""]
