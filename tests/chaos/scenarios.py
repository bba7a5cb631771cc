"""One scenario for each mechanism, on a real Valkey, with the API's and the workers' parts in one process.

Each must pass as things are, and fail when its mechanism is broken (test_controls.py does both).
"""

import os
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from flask import Flask, request
from redis import Redis

from api.jobs import events as job_events
from api.jobs.answers import Answer
from api.jobs.dialects import ANTHROPIC, OPENAI, RESPONSES
from api.jobs.events import ClientGone, Closing
from api.jobs.generation import rq_job
from api.jobs.hub import EventHub
from api.jobs.subscription import Subscription
from common.errors import Conflict, IdempotencyMismatch, Overloaded
from common.flag import Flag
from common.process.data_folder import FolderRefused, take
from common.redis import keys
from common.redis.job_log import LogEntry
from common.redis.rq_seams import now_iso
from common.redis.store import Store
from common.redis.submission import Submission
from common.wire import Event, Finished, GenerationRequest, SamplingParams
from tests.chaos.checker import Report, check_log
from tests.chaos.fake_worker import REVISION, FakeEngine, FakeLoaded, expected_text, fake_load
from worker.jobs.hang_watch import HangWatch
from worker.jobs.heartbeat import Heartbeat
from worker.jobs.ledger import Fenced, Ledger
from worker.jobs.publisher import Publisher
from worker.jobs.served_model import ServedModel

QUEUE = "fake"


class Stage:
    """A queue with its store, a hub, and as many workers as a scenario needs."""

    def __init__(self, redis: "Redis", **options: Any) -> None:
        self.redis = redis
        self.store = Store(redis, **options)
        self.hub = EventHub(self.store, redis)
        self.num_workers = 0

    def submit(self, seed: int, num_tokens: int = 10, queue: str = QUEUE, **fields: Any) -> str:
        request = GenerationRequest(
            f"job-{seed}-{time.monotonic_ns()}",
            queue,
            (1, 2, 3),
            SamplingParams(num_tokens, seed),
            is_flex=fields.get("tier") == "flex",
            keep_alive_s=fields.pop("keep_alive_s", None),
        )
        form = {"kind": "chat", "id": request.id, "model": queue, "created": 0}
        submission = Submission(request, queue, fields.pop("owner", "me"), REVISION, form, background=True, **fields)
        return self.store.submit(submission, rq_job(self.redis, request.id, queue)).job_id

    def worker(self, watch_fd: int | None = None, max_num_seqs: int = 64) -> ServedModel:
        """A registered worker, which runs only in turn()."""
        self.num_workers += 1
        ledger = Ledger(self.redis, QUEUE, f"worker-{self.num_workers}")
        loaded: FakeLoaded = fake_load("", (QUEUE,), None, None)
        ledger.publish_card(loaded.card)
        ledger.register()
        engine = FakeEngine(loaded, type("Config", (), {"max_num_seqs": max_num_seqs}))
        engine.step_s = 0.0
        fd = os.open(os.devnull, os.O_WRONLY) if watch_fd is None else watch_fd
        publisher = Publisher(Redis(connection_pool=self.redis.connection_pool), ledger.fence)
        worker = ServedModel(ledger, engine, publisher, Flag(), HangWatch(fd))
        ledger.renew({})
        return worker

    def bury(self, worker: ServedModel) -> None:
        """The process is dead and its lease has run out."""
        self.redis.delete(keys.worker_key(worker.ledger.fence))

    def field(self, job_id: str, name: str) -> str:
        return (self.redis.hget(keys.job_key(job_id), name) or b"").decode()

    def entries(self, job_id: str) -> list[LogEntry]:
        return self.store.log.entries(job_id, count=10_000)

    def text(self, job_id: str) -> str:
        return "".join(getattr(entry.event, "text", "") for entry in self.entries(job_id))


def turn(worker: ServedModel, times: int = 1) -> None:
    for _ in range(times):
        worker.inbox.wake()
        worker.cancel_requested()
        worker.admit()
        worker.make_room()
        if worker.engine.has_work:
            worker.step()
        else:
            worker.publish([])


def finish(stage: Stage, worker: ServedModel, *job_ids: str) -> None:
    for _ in range(200):
        if all(stage.field(job_id, "state") in ("finished", "failed", "cancelled") for job_id in job_ids):
            return
        turn(worker)
    raise AssertionError(f"not ended: {[stage.field(job_id, 'state') for job_id in job_ids]}")


def read(stage: Stage, subscription: Subscription, timeout_s: float = 3.0) -> list[Any]:
    """All entries that a caller receives, up to the end."""
    with gevent.Timeout(timeout_s, AssertionError("the reader hangs")):
        return list(job_events.events(stage.store, subscription, 0, is_new=True))


def publish(stage: Stage, job_id: str, *numbers: int) -> None:
    """Put entries with these numbers into a subscription, as if they had been published."""
    from common.wire_codec import encode_event

    for entry in stage.entries(job_id):
        if entry.seq in numbers:
            stage.hub.dispatch(b'[["%s",%d,%s]]' % (job_id.encode(), entry.seq, encode_event(entry.event)))


def told_text(told: list[Any]) -> str:
    return "".join(getattr(item.event, "text", "") for item in told if isinstance(item, LogEntry))


def done(stage: Stage, seed: int, num_tokens: int = 10) -> str:
    """Submit a job and run it to its end."""
    job_id = stage.submit(seed, num_tokens)
    finish(stage, stage.worker(), job_id)
    return job_id


def a_zombie_writes_nothing(stage: Stage) -> None:
    job_id = stage.submit(1)
    zombie, successor = stage.worker(), stage.worker()
    turn(zombie, 3)
    stage.bury(zombie)
    successor.ledger.reclaim()
    turn(successor, 3)
    with pytest.raises(Fenced):
        for _ in range(8):
            zombie.step()
    report = Report()
    finish(stage, successor, job_id)
    check_log(report, stage.redis, job_id, "finished")
    assert report.is_clean, report.verdicts


def an_entry_that_is_sent_twice_is_stored_once(stage: Stage) -> None:
    job_id = stage.submit(1)
    worker = stage.worker()
    turn(worker, 3)
    worker.publisher._read()  # the answer is lost
    worker.publisher._write()
    finish(stage, worker, job_id)
    assert [entry.seq for entry in stage.entries(job_id)] == list(range(1, 12))
    assert stage.text(job_id) == expected_text(1, 10)


def a_job_that_kills_its_worker_twice_fails(stage: Stage) -> None:
    job_id = stage.submit(1)
    for _ in range(3):
        worker = stage.worker()
        worker.admit()
        stage.bury(worker)
        stage.worker().ledger.reclaim()
    assert (stage.field(job_id, "state"), stage.field(job_id, "code")) == ("failed", "worker_crashed")


def suspects_run_in_halves(stage: Stage) -> None:
    for seed in range(4):
        stage.submit(seed)
    worker = stage.worker()
    worker.admit()
    assert len(worker.engine.running) == 4  # type: ignore[attr-defined]
    stage.bury(worker)
    successor = stage.worker()
    successor.ledger.reclaim()
    successor.admit()
    assert len(successor.engine.running) == 2  # type: ignore[attr-defined]


def jobs_of_a_dead_worker_continue(stage: Stage) -> None:
    job_id = stage.submit(1)
    worker = stage.worker()
    turn(worker, 3)
    worker.publisher.confirm()
    stage.bury(worker)
    successor = stage.worker()
    successor.ledger.reclaim()
    finish(stage, successor, job_id)
    assert stage.text(job_id) == expected_text(1, 10)
    end = stage.entries(job_id)[-1].event
    assert isinstance(end, Finished) and end.completion_tokens == 10


def the_queue_has_a_limit(stage: Stage) -> None:
    stage.store.max_queue = 3
    for seed in range(3):
        stage.submit(seed)
    with pytest.raises(Overloaded):
        stage.submit(3)


def the_same_key_is_the_same_job(stage: Stage) -> None:
    first = stage.submit(1, idempotency_key="k", body_digest="a")
    assert stage.submit(1, idempotency_key="k", body_digest="a") == first
    with pytest.raises(IdempotencyMismatch):
        stage.submit(1, idempotency_key="k", body_digest="b")


def idempotency_keys_belong_to_their_owner(stage: Stage) -> None:
    first = stage.submit(1, idempotency_key="k", body_digest="a")
    assert stage.submit(1, idempotency_key="k", body_digest="a", owner="somebody else") != first


def a_deadline_ends_a_job(stage: Stage) -> None:
    job_id = stage.submit(1, deadline_s=0.001)
    time.sleep(0.005)
    stage.store.expire(QUEUE)
    assert (stage.field(job_id, "state"), stage.field(job_id, "code")) == ("failed", "timeout")


def a_job_without_a_reader_ends(stage: Stage) -> None:
    job_id = stage.submit(1)
    now = int(time.time() * 1000)
    stage.redis.zadd(f"omni:readers:{QUEUE}", {job_id: now - 60_000})
    stage.redis.hset(f"omni:awake:{QUEUE}", mapping={"since": now - 60_000, "last": now})
    stage.store.expire(QUEUE)
    assert (stage.field(job_id, "state"), stage.field(job_id, "code")) == ("cancelled", "client_gone")


def a_keyed_job_stays_for_its_other_reader(stage: Stage) -> None:
    """The first caller disconnected, and returned with the same Idempotency-Key to another process."""
    job_id = stage.submit(1, idempotency_key="k", body_digest="a")
    now = int(time.time() * 1000)
    stage.redis.zadd(f"omni:readers:{QUEUE}", {job_id: now})
    stage.redis.hset(f"omni:awake:{QUEUE}", mapping={"since": now - 60_000, "last": now})
    stage.store.cancel(job_id, code="client_gone")
    stage.store.poll([job_id])  # the other process's sweep
    stage.store.expire(QUEUE)
    assert stage.field(job_id, "state") == "queued"


def rqs_records_agree(stage: Stage) -> None:
    from tests.chaos.checker import check_redis

    job_id = done(stage, 1)
    report = Report()
    check_redis(report, stage.redis, QUEUE, [job_id])
    assert report.is_clean, report.verdicts


def the_queue_keeps_its_order(stage: Stage) -> None:
    ids = [stage.submit(seed) for seed in range(5)]
    ledger = stage.worker().ledger
    claims = [ledger.claim(0) for _ in ids]
    assert [claim.request.id for claim in claims if claim is not None] == ids


def a_claim_whose_answer_was_lost_is_answered_again(stage: Stage) -> None:
    job_id = stage.submit(1)
    stage.submit(2)
    ledger = stage.worker().ledger
    args = (ledger.fence, QUEUE, ledger.worker_name, now_iso(), 0, ledger._claim_number, "")
    ledger._scripts.run("claim", *args)
    claim = ledger.claim(0)
    assert claim is not None and claim.request.id == job_id


def a_reader_fills_gaps(stage: Stage) -> None:
    job_id = done(stage, 1)
    subscription = stage.hub.subscribe(job_id)
    publish(stage, job_id, 1, 2, 5, 6, 11)
    assert told_text(read(stage, subscription)) == expected_text(1, 10)


def a_reader_finds_a_lost_last_entry(stage: Stage) -> None:
    job_id = done(stage, 1)
    subscription = stage.hub.subscribe(job_id)
    publish(stage, job_id, 1, 2, 3)
    gevent.spawn_later(0.05, lambda: stage.hub._update([job_id]))
    assert told_text(read(stage, subscription)) == expected_text(1, 10)


def a_slow_reader_holds_little(stage: Stage) -> None:
    job_id = done(stage, 1, 150)
    subscription = stage.hub.subscribe(job_id)
    publish(stage, job_id, *range(1, 200))
    assert len(subscription._entries) <= 64
    gevent.spawn_later(0.05, lambda: stage.hub._update([job_id]))
    assert told_text(read(stage, subscription)) == expected_text(1, 150)


def a_log_that_was_rewound_is_noticed(stage: Stage) -> None:
    job_id = stage.submit(1)
    worker = stage.worker()
    turn(worker, 6)
    worker.publisher.confirm()
    subscription = stage.hub.subscribe(job_id)
    publish(stage, job_id, *range(1, 7))
    stage.redis.xdel(keys.log_key(job_id), "5-0", "6-0")
    gevent.spawn_later(0.05, lambda: stage.hub._update([job_id]))
    with pytest.raises(Conflict) as refusal:
        read(stage, subscription, 1.0)
    assert refusal.value.code == "stream_rewound"


def a_job_whose_log_was_rewound_continues_from_it(stage: Stage) -> None:
    job_id = stage.submit(1)
    worker = stage.worker()
    turn(worker, 6)
    worker.publisher.confirm()
    stage.redis.xtrim(keys.log_key(job_id), maxlen=0)  # as if the failover had lost them
    stage.redis.delete(keys.log_key(job_id))
    finish(stage, worker, job_id)
    assert stage.text(job_id) == expected_text(1, 10)


def half_a_submission_is_no_job(stage: Stage) -> None:
    real = stage.store._scripts.run

    def die_after_one(name: str, *args: Any) -> Any:
        stage.store._scripts.run = die_a_second_time  # type: ignore[method-assign]
        return real(name, *args)

    def die_a_second_time(name: str, *args: Any) -> Any:
        raise SystemExit

    stage.store._scripts.run = die_after_one  # type: ignore[method-assign]
    try:
        stage.submit(1)
    except SystemExit:
        pass
    jobs = {key.decode().removeprefix("omni:job:") for key in stage.redis.scan_iter("omni:job:*")}
    waiting = {member.decode().partition(":")[2] for member in stage.redis.zrange(f"omni:waiting:{QUEUE}", 0, -1)}
    assert jobs == waiting == {job_id.decode() for job_id in stage.redis.lrange(f"rq:queue:{QUEUE}", 0, -1)}


def a_caller_that_disconnects_is_noticed(stage: Stage) -> None:
    subscription = stage.hub.subscribe(stage.submit(1))
    gevent.spawn_later(0.05, subscription.client_gone)
    with pytest.raises(ClientGone):
        read(stage, subscription, 1.0)


def a_stopping_process_closes_its_streams(stage: Stage) -> None:
    subscription = stage.hub.subscribe(stage.submit(1))
    gevent.spawn_later(0.05, stage.hub.stop)
    assert isinstance(read(stage, subscription, 1.0)[-1], Closing)


def no_client_takes_a_part_for_the_whole(stage: Stage) -> None:
    """When the process stops, a stream without ids ends with an error in its endpoint's format."""
    for dialect, with_ids in product((OPENAI, RESPONSES, ANTHROPIC), (False, True)):
        service: Any = SimpleNamespace(store=stage.store, hub=EventHub(stage.store, stage.redis))
        with Flask("test").test_request_context():
            answer = Answer(service, request, stage.submit(1), is_background=True)
            stream = answer.stream(Silent(), dialect, with_ids=with_ids).iter_encoded()
        gevent.spawn_later(0.05, service.hub.end_streams)
        last_line = b"".join(stream).strip().splitlines()[-1:]
        if with_ids:
            assert last_line == [b"retry: 1000"]
        else:
            assert last_line and b"restarting" in last_line[0] and b'"error":{' in last_line[0]


class Silent:
    """An answer format without content."""

    def opening(self) -> list[dict[str, Any]]:
        return []

    def feed(self, event: Event) -> list[dict[str, Any]]:
        return []


def nothing_is_published_that_is_not_logged(stage: Stage) -> None:
    stage.submit(1)
    worker = stage.worker()
    with stage.redis.pubsub(ignore_subscribe_messages=True) as listener:
        listener.subscribe(keys.EVENTS)
        listener.get_message(timeout=1.0)
        worker.publisher._write = lambda: None  # type: ignore[method-assign]  # dies before the script is sent
        worker.admit()
        worker.publisher.send(worker.engine.step())
        assert listener.get_message(timeout=0.2) is None


def a_cancel_reaches_the_engine(stage: Stage) -> None:
    job_id = stage.submit(1, 1000)
    worker = stage.worker()
    turn(worker, 3)
    assert stage.store.cancel(job_id, "me") == "running"
    Heartbeat([worker]).beat()
    turn(worker, 2)
    worker.publisher.confirm()
    assert stage.field(job_id, "state") == "cancelled"
    assert not worker.engine.has_work


def a_deploy_makes_no_suspects(stage: Stage) -> None:
    job_id = stage.submit(1)
    worker = stage.worker()
    turn(worker, 3)
    worker.leave()
    assert (stage.field(job_id, "state"), stage.field(job_id, "crashes")) == ("queued", "0")
    finish(stage, stage.worker(), job_id)
    assert stage.text(job_id) == expected_text(1, 10)


def a_job_that_made_room_continues_from_its_log(stage: Stage) -> None:
    worker = stage.worker(max_num_seqs=2)
    long = [stage.submit(seed, 40, owner="long") for seed in range(3)]
    turn(worker, 5)
    short = stage.submit(9, 2, owner="short")
    shown = [len(stage.entries(job_id)) for job_id in long]
    turn(worker, 4)
    assert stage.field(short, "state") == "finished"
    assert all(len(stage.entries(job_id)) >= num_entries for job_id, num_entries in zip(long, shown, strict=True))
    finish(stage, worker, *long)
    assert sum(int(stage.field(job_id, "made_room") or 0) for job_id in long) == 1
    for seed, job_id in enumerate(long):
        assert stage.text(job_id) == expected_text(seed, 40)
        end = stage.entries(job_id)[-1].event
        assert isinstance(end, Finished) and end.completion_tokens == 40
        assert (stage.field(job_id, "crashes"), stage.field(job_id, "suspect")) == ("0", "0")


def a_full_worker_makes_room(stage: Stage) -> None:
    worker = stage.worker(max_num_seqs=4)
    for seed in range(8):
        stage.submit(seed, 1000, owner="long")
    turn(worker, 5)
    short = stage.submit(20, 3, owner="short")
    turn(worker, 1)
    assert stage.field(short, "state") == "running"


def entries_wait_for_redis(stage: Stage) -> None:
    job_id = stage.submit(1, 4)
    worker = stage.worker()
    turn(worker, 3)
    worker.publisher.confirm()
    real, left = worker.publisher._write, [2]

    def fail_twice() -> None:
        left[0] -= 1
        worker.publisher._drop_connection() if left[0] >= 0 else real()

    worker.publisher._write = fail_twice  # type: ignore[method-assign]
    finish(stage, worker, job_id)
    assert stage.text(job_id) == expected_text(1, 4)


def every_step_is_reported_to_the_parent(stage: Stage) -> None:
    stage.submit(1)
    reader, writer = os.pipe()
    worker = stage.worker(writer)
    turn(worker, 2)
    os.close(writer)
    said = os.read(reader, 1000)
    os.close(reader)
    assert said.count(b"begin %d\n" % worker.ledger.fence) == said.count(b"end\n") == 3  # one admission, two steps


def a_folder_has_one_owner(stage: Stage) -> None:
    with TemporaryDirectory() as folder:
        fd = take(Path(folder))
        with pytest.raises(FolderRefused):
            os.close(take(Path(folder)))
        os.close(fd)


CONTROLS: dict[str, Callable[[Stage], None]] = {
    "no_fence": a_zombie_writes_nothing,
    "no_entry_numbers": an_entry_that_is_sent_twice_is_stored_once,
    "no_crash_count": a_job_that_kills_its_worker_twice_fails,
    "no_blame": suspects_run_in_halves,
    "no_reclaim": jobs_of_a_dead_worker_continue,
    "regenerate_from_the_start": jobs_of_a_dead_worker_continue,
    "redraw_on_resume": jobs_of_a_dead_worker_continue,
    "no_limit": the_queue_has_a_limit,
    "no_idempotency": the_same_key_is_the_same_job,
    "idempotency_not_scoped": idempotency_keys_belong_to_their_owner,
    "no_deadline": a_deadline_ends_a_job,
    "no_reader_grace": a_job_without_a_reader_ends,
    "keyed_jobs_die_at_once": a_keyed_job_stays_for_its_other_reader,
    "no_rq_state": rqs_records_agree,
    "skip_the_head": the_queue_keeps_its_order,
    "claims_not_numbered": a_claim_whose_answer_was_lost_is_answered_again,
    "no_gap_fill": a_reader_fills_gaps,
    "no_sweep": a_reader_finds_a_lost_last_entry,
    "unbounded_readers": a_slow_reader_holds_little,
    "rewind_unnoticed": a_log_that_was_rewound_is_noticed,
    "keep_what_has_a_gap": a_job_whose_log_was_rewound_continues_from_it,
    "two_step_submit": half_a_submission_is_no_job,
    "ignore_client_gone": a_caller_that_disconnects_is_noticed,
    "cut_on_sigterm": a_stopping_process_closes_its_streams,
    "end_cleanly": no_client_takes_a_part_for_the_whole,
    "publish_before_append": nothing_is_published_that_is_not_logged,
    "ignore_cancels": a_cancel_reaches_the_engine,
    "no_release": a_deploy_makes_no_suspects,
    "drop_entries_when_redis_is_away": entries_wait_for_redis,
    "no_room_made": a_full_worker_makes_room,
    "regenerate_after_making_room": a_job_that_made_room_continues_from_its_log,
    "drop_the_log_on_making_room": a_job_that_made_room_continues_from_its_log,
    "no_lock": a_folder_has_one_owner,
    "no_hang_watch": every_step_is_reported_to_the_parent,
}
