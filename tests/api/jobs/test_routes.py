"""The list of a key's jobs: in pages, without the requests' text."""

from itertools import count

import pytest

from api.jobs.generation import rq_job
from common.errors import InvalidRequest
from common.redis.store import Store
from common.redis.submission import Submission
from common.wire import GenerationRequest, SamplingParams

QUEUE, OWNER = "q", "me"
PICTURE = "data:image/png;base64," + "A" * 1_000_000


@pytest.fixture
def store(redis):
    return Store(redis)


@pytest.fixture
def put(store, redis):
    """Enqueues jobs and returns their ids."""
    numbers = count()

    def submit(number, owner=OWNER, images=()):
        ids = [f"job-{next(numbers) * 7919 % 100:02d}" for _ in range(number)]  # in no order of their own
        for job_id in ids:
            request = GenerationRequest(job_id, "model-1", (1, 2), SamplingParams(max_tokens=5, seed=1), images=images)
            form = {"kind": "chat", "model": "model-1"}
            store.submit(Submission(request, QUEUE, owner, "r", form), rq_job(redis, job_id, QUEUE))
        return ids

    return submit


def pages(store, limit, owner=OWNER):
    after, has_more, found = "", True, []
    while has_more:
        page, has_more = store.jobs.page(owner, limit, after)
        assert len(page) <= limit
        found += [job.id for job in page]
        after = found[-1]
    return found


@pytest.mark.parametrize("limit", [1, 3, 10, 100])
def test_all_jobs_are_listed_once_the_newest_first(store, put, limit):
    ids = put(10)
    put(3, owner="you")
    assert pages(store, limit) == ids[::-1]


def test_jobs_that_have_ended_come_last(store, put):
    first, second, third = put(3)
    store.cancel(third)
    assert pages(store, 2) == [second, first, third]
    states = {job.id: (job.state, job.position, job.model) for job in store.jobs.page(OWNER, 3)[0]}
    assert states == {
        first: ("queued", 0, "model-1"),
        second: ("queued", 1, "model-1"),
        third: ("cancelled", -1, "model-1"),
    }


def test_a_page_behind_another_keys_job_is_refused(store, put):
    [theirs] = put(1, owner="you")
    for after in (theirs, "unknown"):
        with pytest.raises(InvalidRequest, match="'after'"):
            store.jobs.page(OWNER, 1, after)
    assert store.jobs.page("nobody", 5) == ([], False)


def test_neither_a_list_nor_a_look_reads_what_was_asked(store, put, redis):
    ids = put(5, images=(PICTURE,))
    before = redis.info("stats")["total_net_output_bytes"]
    assert len(store.jobs.page(OWNER, 5)[0]) == 5
    assert store.jobs.get(ids[0]).form == {"kind": "chat", "model": "model-1"}
    assert redis.info("stats")["total_net_output_bytes"] - before < 50_000
