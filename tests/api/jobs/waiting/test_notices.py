"""What a client is told while its job waits, and how often."""

from dataclasses import replace

import pytest
from redis import Redis

from api.jobs.dialects import ANTHROPIC, OLLAMA, OPENAI
from api.jobs.waiting.notices import Idle, Queued, SwappedOut, WaitNews, words_of
from api.jobs.waiting.place import wait_of
from common.redis.served.shelf import ShelfEntry
from common.redis.store import JobStatus
from common.wire import Delta, Finished
from tests.chaos.scenarios import QUEUE, Stage
from worker.jobs.ledger import Ledger
from worker.jobs.publisher import Publisher

QUEUED = JobStatus("queued", 0, 1, 9.0, queue="b")
COLD = ShelfEntry("b", "cold", eta_s=12.4)


def words(news: WaitNews, status: JobStatus, entry: ShelfEntry | None) -> list[str]:
    return [words_of(notice) for notice in news.of(status, entry)]


def test_a_job_whose_model_is_not_loaded_is_told_its_place_and_when_the_model_comes() -> None:
    news = WaitNews()
    assert words(news, QUEUED, COLD) == ["queued position=2 eta=9", "swapped out, model=b, eta=12"]
    assert words(news, replace(QUEUED, eta_s=8.0), replace(COLD, eta_s=11.0)) == []


def test_a_job_is_told_the_same_place_wherever_it_is_looked_up(redis: Redis) -> None:
    """1 is next, 0 has been claimed and has generated nothing, and none has begun."""
    stage = Stage(redis)
    job_id, news, ledger = stage.submit(1), WaitNews(), Ledger(redis, QUEUE, "worker-1")
    ledger.register()

    def told() -> tuple[int | None, list[str]]:
        [status], job = stage.store.poll([job_id]), stage.store.jobs.get(job_id)
        return wait_of(job)["position"], words(news, replace(status, eta_s=-1.0), None)

    assert told() == (1, ["queued position=1"])
    claim = ledger.claim(0)
    assert claim is not None
    assert told() == (0, ["queued position=0"])
    assert told() == (0, [])
    publisher = Publisher(redis, ledger.fence)
    publisher.open(job_id, claim.num_entries, claim.is_suspect)
    publisher.send([(job_id, Delta(0, (7,), "x"))])
    publisher.confirm()
    assert told() == (None, [])
    publisher.send([(job_id, Finished(3, 1))])
    publisher.confirm()
    assert told() == (None, [])


def test_the_progress_of_loading_is_told_by_tenths() -> None:
    news, loading = WaitNews(), replace(COLD, status="loading", eta_s=3.0)
    news.of(QUEUED, COLD)
    told = [words(news, QUEUED, replace(loading, share=share)) for share in (0.0, 0.09, 0.1, 0.35, 0.39)]
    assert told == [
        ["loading model=b progress=0 eta=3"],
        [],
        ["loading model=b progress=0.1 eta=3"],
        ["loading model=b progress=0.3 eta=3"],
        [],
    ]


def test_an_answer_that_is_paused_again_is_told_so_again() -> None:
    news, paused = WaitNews(), replace(QUEUED, num_entries=5)
    assert words(news, paused, COLD)[1:] == ["swapped out, model=b, eta=12"]
    assert words(news, replace(paused, state="running"), replace(COLD, status="loaded")) == []
    assert words(news, paused, replace(COLD, eta_s=None)) == ["swapped out, model=b"]


def test_who_waits_for_a_model_whose_place_is_held_is_told_by_which() -> None:
    news, held = WaitNews(), replace(COLD, eta_s=None, why="its place is held by pinned models: tiny")
    unknown = replace(QUEUED, eta_s=-1.0)
    told = ["queued position=2", "waiting model=b, its place is held by pinned models: tiny"]
    assert words(news, unknown, held) == told
    assert words(news, unknown, COLD) == ["swapped out, model=b, eta=12"]


@pytest.mark.parametrize(
    ("status", "entry"),
    [
        (replace(QUEUED, state="running"), COLD),
        (replace(QUEUED, state=""), COLD),
        (QUEUED, None),
        (QUEUED, replace(COLD, status="loaded")),
        (replace(QUEUED, not_before=2e9), COLD),
    ],
)
def test_nobody_else_is_told_that_a_model_is_swapped_out(status: JobStatus, entry: ShelfEntry | None) -> None:
    assert not [notice for notice in WaitNews().of(status, entry) if isinstance(notice, SwappedOut)]


def test_after_a_long_silence_the_same_is_said_again() -> None:
    news = WaitNews()
    assert news.again() == [Idle()]
    told = news.of(QUEUED, COLD)
    assert news.again() == told[1:]


def test_a_notice_is_white_space_or_a_comment_in_every_dialect() -> None:
    for notice in (Queued(0, 1.0), SwappedOut("b\n\ndata: x", "cold", 0, 1.0), Idle()):
        text = words_of(notice)
        for is_block in (False, True):
            assert OLLAMA.notice(text, is_block=is_block) == b" "
            for dialect in (OPENAI, ANTHROPIC):
                line, end, rest = dialect.notice(text, is_block=is_block).partition(b"\n")
                assert line.startswith(b": ") and end and rest == b"\n" * is_block
