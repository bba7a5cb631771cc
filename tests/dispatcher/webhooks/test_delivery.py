"""Each event reaches each endpoint that asked for it at least once, with one id, however often something fails."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis
from rq.serializers import JSONSerializer
from standardwebhooks import Webhook

from common.records.database import Records
from common.records.webhooks import change_endpoint, deliver_again, remove_endpoint, rotate_secret
from common.redis.connection import connect
from common.setting_types import WEBHOOK_QUEUE
from common.webhooks.signatures import new_secret
from dispatcher.webhooks.jobs import webhook_queue
from tests.dispatcher.webhooks.rig import AT_ONCE, Rig, add, record
from tests.receiver import CLOSE, HANG, Receiver


def test_an_event_is_delivered_to_every_endpoint_that_wants_it(rig: Rig) -> None:
    with Receiver() as receiver:
        secret = new_secret()
        add(rig.records, receiver.url("/all"), secret=secret)
        add(rig.records, receiver.url("/batches"), event_types=["batch.completed", "batch.failed"])
        add(rig.records, receiver.url("/answers"), event_types=["response.completed"])
        add(rig.records, receiver.url("/admin"), owner="b" * 32, scope="all")
        add(rig.records, receiver.url("/other"), owner="b" * 32)
        record(rig.records, "batch_1")
        rig.rounds(1)
        assert sorted(got.path for got in receiver.all) == ["/admin", "/all", "/batches"]
        assert len(receiver.ids()) == 1 and rig.states() == ["delivered"] * 3
        [mine] = [got for got in receiver.all if got.path == "/all"]
        assert Webhook(secret).verify(mine.body, mine.headers)["data"] == {"id": "batch_1"}
    assert rig.redis.keys("rq:job:*") == [] and rig.redis.keys("rq:rl:*:allowed") == []


def test_a_repeated_event_is_the_same_event(rig: Rig) -> None:
    with Receiver() as receiver:
        add(rig.records, receiver.url())
        for _ in range(3):
            record(rig.records, "batch_1", "batch_2")
            rig.rounds(1)
        assert sorted(receiver.ids().values()) == [1, 1]


def test_without_an_endpoint_nothing_is_kept(rig: Rig) -> None:
    record(rig.records, "batch_1")
    assert rig.deliveries() == []


@pytest.mark.parametrize("answer", [500, 404, 302, CLOSE, HANG])
def test_a_failed_delivery_is_repeated_under_the_same_id_until_it_succeeds(rig: Rig, answer: int) -> None:
    with Receiver() as receiver:
        endpoint_id = add(rig.records, receiver.url())
        receiver.answers["/hook"] = answer
        record(rig.records, "batch_1")
        rig.rounds(3)
        assert rig.states() == ["pending"] and rig.deliveries()[0]["attempts"] == 3
        assert rig.endpoint(endpoint_id)["failing_since"] is not None
        receiver.answers["/hook"] = 204
        rig.rounds(1)
        assert list(receiver.ids().values()) == [4] and rig.states() == ["delivered"]
        assert rig.endpoint(endpoint_id)["failing_since"] is None


def test_a_receiver_that_is_gone_is_disabled_with_all_that_waits_for_it(rig: Rig) -> None:
    with Receiver() as receiver:
        endpoint_id = add(rig.records, receiver.url())
        receiver.answers["/hook"] = 410
        record(rig.records, "batch_1", "batch_2", "batch_3")
        rig.rounds(1)
        assert len(receiver.all) == 1 and rig.states() == ["failed"] * 3
        assert "410" in rig.endpoint(endpoint_id)["disabled_why"]
        record(rig.records, "batch_4")
        assert len(rig.deliveries()) == 3


def test_an_endpoint_that_only_failed_until_the_end_is_disabled_with_the_reason(records: Records, redis: Redis) -> None:
    rig = Rig(records, redis, replace(AT_ONCE, give_up_s=0.0))
    with Receiver() as receiver:
        endpoint_id = add(rig.records, receiver.url())
        receiver.answers["/hook"] = 503
        record(rig.records, "batch_1")
        rig.rounds(1)
        assert rig.states() == ["failed"]
        assert rig.endpoint(endpoint_id)["disabled_why"] == "no delivery succeeded for 0 hours; the last: HTTP 503"
        with rig.records.begin() as connection:
            change_endpoint(connection, endpoint_id, {"disabled": None})
            deliver_again(connection, endpoint_id, rig.deliveries()[0]["id"])
        receiver.answers["/hook"] = 200
        rig.rounds(1)
        assert rig.states() == ["delivered"] and list(receiver.ids().values()) == [2]


def test_a_delivery_that_is_asked_for_again_waits_for_no_pause_and_its_success_ends_the_failure(
    records: Records, redis: Redis
) -> None:
    rig = Rig(records, redis, replace(AT_ONCE, pauses_s=(900.0,), cool_down_s=900.0))
    with Receiver() as receiver:
        endpoint_id = add(rig.records, receiver.url())
        receiver.answers["/hook"] = 503
        record(rig.records, "batch_1")
        rig.rounds(1)
        receiver.answers["/hook"] = 200
        rig.rounds(1)
        assert rig.states() == ["pending"] and len(receiver.all) == 1
        with rig.records.begin() as connection:
            deliver_again(connection, endpoint_id, rig.deliveries()[0]["id"])
        rig.rounds(1)
        assert rig.states() == ["delivered"] and list(receiver.ids().values()) == [2]
        assert rig.endpoint(endpoint_id)["failing_since"] is None
        record(rig.records, "batch_2")
        rig.rounds(1)
        assert rig.states() == ["delivered"] * 2


def test_a_success_ends_the_wait_of_deliveries_that_were_not_attempted_while_the_endpoint_failed(
    records: Records, redis: Redis
) -> None:
    rig = Rig(records, redis, replace(AT_ONCE, pauses_s=(900.0,), cool_down_s=900.0))
    with Receiver() as receiver:
        endpoint_id = add(rig.records, receiver.url())
        receiver.answers["/hook"] = 503
        record(rig.records, "batch_1")
        rig.rounds(1)
        record(rig.records, "batch_2", "batch_3")
        rig.rounds(1)
        assert len(receiver.all) == 1
        receiver.answers["/hook"] = 200
        with rig.records.begin() as connection:
            deliver_again(connection, endpoint_id, rig.deliveries()[0]["id"])
        rig.rounds(2)
        assert rig.states() == ["delivered"] * 3 and sorted(receiver.ids().values()) == [1, 1, 2]


def test_both_secrets_sign_for_a_day_after_a_rotation(rig: Rig) -> None:
    with Receiver() as receiver:
        old, new = new_secret(), new_secret()
        endpoint_id = add(rig.records, receiver.url(), secret=old)
        with rig.records.begin() as connection:
            rotate_secret(connection, endpoint_id, new, keep_old=True)
        record(rig.records, "batch_1")
        rig.rounds(1)
        got = receiver.next()
        for secret in (old, new):
            Webhook(secret).verify(got.body, got.headers)
        with rig.records.begin() as connection:
            change_endpoint(connection, endpoint_id, {"old_secret_until": 1.0})
        record(rig.records, "batch_2")
        rig.rounds(1)
        assert len(receiver.next().headers["webhook-signature"].split()) == 1


def test_a_removed_endpoint_s_deliveries_end_quietly(rig: Rig) -> None:
    with Receiver() as receiver:
        endpoint_id = add(rig.records, receiver.url())
        record(rig.records, "batch_1")
        rig.feed.tick()
        with rig.records.begin() as connection:
            remove_endpoint(connection, endpoint_id)
        rig.work()
        assert not receiver.all and rig.deliveries() == []


def test_an_emptied_redis_loses_no_delivery(rig: Rig) -> None:
    rig = rig_that_sweeps(rig)
    with Receiver() as receiver:
        add(rig.records, receiver.url())
        receiver.answers["/hook"] = 500
        record(rig.records, "batch_1", "batch_2")
        rig.rounds(1)  # one waits in RQ's scheduler, and one for it
        receiver.answers["/hook"] = 200
        record(rig.records, "batch_3")
        rig.feed.hand_new()
        rig.redis.flushall()
        rig.work()
        assert rig.states().count("pending") == 3
        assert rig.feed.find_lost() == 3
        rig.work()
        assert rig.states() == ["delivered"] * 3


def test_without_the_sweep_an_emptied_redis_loses_deliveries(rig: Rig) -> None:
    """The control of the test above."""
    with Receiver() as receiver:
        add(rig.records, receiver.url())
        record(rig.records, "batch_1")
        rig.feed.hand_new()
        rig.redis.flushall()
        rig.rounds(2)
        assert rig.states() == ["pending"] and not receiver.all


def test_a_delivery_that_its_killed_worker_held_is_found_and_has_a_place_again(rig: Rig) -> None:
    """The worker dies between the send and the record: the job is no more queued, its place is taken for ever."""
    rig = rig_that_sweeps(rig, lease_s=0.0)
    with Receiver() as receiver:
        add(rig.records, receiver.url())
        record(rig.records, *(f"batch_{number}" for number in range(4)))
        rig.feed.hand_new()
        queue = webhook_queue(rig.redis)
        held = queue.pop_job_id(), queue.pop_job_id()  # as many as an endpoint may have
        rig.work()
        assert rig.states().count("delivered") == 0
        assert rig.feed.find_lost() == len(held)
        rig.work()
        assert rig.states() == ["delivered"] * 4


def test_a_worker_that_is_killed_after_its_last_record_leaves_its_place_to_others(rig: Rig) -> None:
    """The delivery is done in SQL; RQ was not told, and counts the job among the two that its endpoint may have."""
    rig = rig_that_sweeps(rig)
    with Receiver() as receiver:
        add(rig.records, receiver.url())
        record(rig.records, *(f"batch_{number}" for number in range(4)))
        rig.feed.hand_new()
        queue = webhook_queue(rig.redis)
        for _ in range(2):
            job_id = queue.pop_job_id()
            rig.redis.hset(f"rq:job:{job_id}", "status", "started")
            rig.deliver(job_id)
        rig.work()
        assert rig.states().count("delivered") == 2
        rig.feed.find_lost()
        rig.work()
        assert rig.states() == ["delivered"] * 4 and sorted(receiver.ids().values()) == [1] * 4


def test_what_waits_in_rq_is_not_taken_for_lost(rig: Rig) -> None:
    rig = rig_that_sweeps(rig)
    with Receiver() as receiver:
        add(rig.records, receiver.url())
        record(rig.records, *(f"batch_{number}" for number in range(5)))
        rig.feed.hand_new()
        assert rig.feed.find_lost() == 0
        receiver.answers["/hook"] = 500
        rig.work()
        assert rig.feed.find_lost() == 0


def test_a_failing_receiver_is_probed_once_and_the_others_wait(records: Records, redis: Redis) -> None:
    rig = Rig(records, redis, replace(AT_ONCE, pauses_s=(60.0,), cool_down_s=60.0))
    with Receiver() as receiver:
        add(rig.records, receiver.url("/bad"))
        receiver.answers["/bad"] = 500
        record(rig.records, *(f"batch_{number}" for number in range(50)))
        rig.feed.tick()
        rig.work()
        assert len(receiver.all) == 1 and rig.num_jobs == 50
        assert [delivery["attempts"] for delivery in rig.deliveries()].count(1) == 1
        assert webhook_queue(redis).scheduled_job_registry.count == 50


def test_housekeeping_that_failed_is_run_again_at_the_next_time(rig: Rig) -> None:
    runs = []

    def fail() -> None:
        runs.append("failed")
        raise OSError("the store is locked")

    rig.chores = fail
    for _ in range(2):
        rig.feed._keep_house()
        rig.work()
    assert runs == ["failed"] * 2 and rig.redis.keys("rq:job:*") == []


def test_housekeeping_whose_worker_was_killed_is_run_again_once_rq_has_noticed(rig: Rig) -> None:
    runs: list[str] = []
    rig.chores = lambda: runs.append("run")
    rig.feed._keep_house()
    queue, killed = webhook_queue(rig.redis), rig.worker()
    job = killed.job_class.fetch(queue.pop_job_id(), rig.redis, JSONSerializer)
    killed.prepare_execution(job)
    killed.prepare_job_execution(job)
    rig.feed._keep_house()
    rig.work()
    assert runs == []
    queue.started_job_registry.cleanup(time.time() + 3600)
    rig.feed._keep_house()
    rig.work()
    assert runs == ["run"]


def test_a_job_s_record_cannot_choose_code(rig: Rig) -> None:
    queue = webhook_queue(rig.redis)
    job = queue.enqueue_call("os.getpid", job_id="evil", result_ttl=100, failure_ttl=100)
    rig.redis.hset(job.key, mapping={"success_callback_name": "os.abort", "failure_callback_name": "os.abort"})
    rig.work()
    job.refresh()
    assert job.is_failed and "PermissionError" in str(job.latest_result().exc_string)


def test_the_queue_is_rq_s_own_and_not_one_of_our_models(rig: Rig) -> None:
    add(rig.records, "http://127.0.0.1:9/")
    record(rig.records, "batch_1")
    rig.feed.hand_new()
    assert rig.redis.smembers("rq:queues") == {f"rq:queue:{WEBHOOK_QUEUE}".encode()}
    assert not rig.redis.keys("omni:*")


def rig_that_sweeps(rig: Rig, lease_s: float = 30.0) -> Rig:
    """With deliveries that count as overdue at once."""
    schedule = replace(AT_ONCE, grace_s=-2.0, lease_s=lease_s)
    return Rig(rig.records, rig.redis, schedule)


def test_the_dispatcher_s_user_of_a_guarded_redis_may_do_all_this(
    records: Records, redis: Redis, valkey_url: str
) -> None:
    lines = (Path(__file__).resolve().parents[3] / "deploy" / "valkey" / "users.conf").read_text().splitlines()
    [rights] = [line.split()[4:] for line in lines if line.startswith("user dispatcher ")]
    redis.execute_command("ACL", "SETUSER", "dispatcher", "reset", "on", ">secret", *rights)
    guarded = connect(valkey_url.replace("unix://", "unix://dispatcher:secret@"))
    try:
        rig = Rig(records, guarded)
        with Receiver() as receiver, guarded.pubsub() as channel:
            channel.subscribe("rq:pubsub:omni-webhooks-1")
            add(rig.records, receiver.url())
            receiver.answers["/hook"] = 500
            record(rig.records, "batch_1")
            rig.rounds(2)
            receiver.answers["/hook"] = 200
            rig.rounds(1)
            assert rig.states() == ["delivered"]
            assert not redis.execute_command("ACL", "LOG")
    finally:
        redis.execute_command("ACL", "DELUSER", "dispatcher")
