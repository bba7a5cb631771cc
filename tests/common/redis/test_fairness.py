"""The queue is shared fairly between keys and keeps the order within a key; scripts enforce the limits."""

import math
import threading
from itertools import count

import pytest

from api.jobs.generation import rq_job
from common.errors import InvalidRequest, KeyLimited
from common.redis.key_store import KeyLimits, KeyStore
from common.redis.keys import owner_of
from common.redis.refusals import OWN_RETRY_S
from common.redis.store import Store
from common.redis.submission import Submission
from common.wire import Delta, Finished, GenerationRequest, SamplingParams
from worker.jobs.ledger import Ledger
from worker.jobs.publisher import Publisher

QUEUE = "fair"


class Queue:
    """A queue with submitters and one worker that only claims."""

    def __init__(self, redis):
        self.redis = redis
        self.store = Store(redis, max_queue=100_000)
        self.keys = KeyStore(redis)
        self.ledger = Ledger(redis, QUEUE, "w1")
        self.publisher = Publisher(redis, self.ledger.register())
        self.numbers = count()

    def put(self, owner, num=1, *, max_tokens=10, prompt=2, **changes):
        ids = []
        for _ in range(num):
            job_id = f"{owner}-{next(self.numbers)}"
            request = GenerationRequest(job_id, QUEUE, (1,) * prompt, SamplingParams(max_tokens=max_tokens, seed=1))
            submission = Submission(request, QUEUE, owner, "r", {"kind": "chat"}, **changes)
            self.store.submit(submission, rq_job(self.redis, job_id, QUEUE))
            ids.append(job_id)
        return ids

    def claim(self, num=1):
        claims = [self.ledger.claim(0) for _ in range(num)]
        return [claim.request.id for claim in claims if claim is not None]

    def serve(self, num_tokens):
        """Claim the next job, generate this many tokens and end it; returns its id."""
        claim = self.ledger.claim(0)
        job_id = claim.request.id
        self.publisher.open(job_id, claim.num_entries, claim.is_suspect)
        self.publisher.send([(job_id, Delta(0, (7,) * num_tokens, "x")), (job_id, Finished(2, num_tokens))])
        assert self.publisher.confirm() == {}
        self.publisher.close(job_id)
        return job_id

    def add_key(self, **limits):
        return owner_of(self.keys.add(f"key-{next(self.numbers)}", KeyLimits(**limits)))


@pytest.fixture
def queue(redis):
    return Queue(redis)


def owners(ids):
    return "".join(job_id[0] for job_id in ids)


def test_with_one_key_the_queue_is_first_in_first_out(queue):
    ids = queue.put("a", 20)
    assert queue.claim(5) == ids[:5]
    ids += queue.put("a", 5)
    assert queue.claim(30) == ids[5:]
    more = queue.put("a", 3)
    assert queue.claim(3) == more


def test_a_key_with_a_thousand_waiting_jobs_does_not_delay_the_first_of_another(queue):
    queue.put("a", 1000)
    queue.claim(7)
    [first] = queue.put("b")
    assert queue.claim() == [first]


def test_two_busy_keys_take_turns(queue):
    queue.put("a", 50)
    queue.claim(10)
    queue.put("b", 20)
    assert owners(queue.claim(20)).count("b") == 10


def test_a_key_of_weight_three_is_served_three_times_as_often(queue):
    heavy, light = queue.add_key(weight=3), queue.add_key(weight=1)
    queue.put(heavy, 40)
    queue.put(light, 40)
    served = [job_id.split("-")[0] for job_id in queue.claim(20)]
    assert served.count(heavy) == 15


def test_shares_are_counted_in_tokens_so_long_jobs_do_not_bring_more(queue):
    queue.put("a", 60, max_tokens=200)
    queue.put("b", 60, max_tokens=20)
    tokens = {"a": 0, "b": 0}
    for _ in range(55):
        waiting = queue.store.redis.zrange(f"omni:waiting:{QUEUE}", 0, -1)
        assert {member.decode().partition(":")[2][0] for member in waiting} == {"a", "b"}
        head = queue.ledger.waiter().head.owner
        tokens[queue.serve(200 if head == "a" else 20)[0]] += 202 if head == "a" else 22
    assert abs(tokens["a"] - tokens["b"]) <= 202


def test_a_large_max_tokens_that_is_not_used_costs_nothing(queue):
    queue.put("a", 40, max_tokens=100_000)
    queue.put("b", 40, max_tokens=10)
    served = owners([queue.serve(10) for _ in range(40)])
    assert served.count("a") == served.count("b") == 20


def test_prompts_count_too(queue):
    queue.put("a", 40, prompt=198)
    queue.put("b", 40, prompt=2)
    served = owners([queue.serve(2) for _ in range(40)])
    assert served.count("a") < 3


def test_a_key_that_stayed_away_is_owed_nothing_and_one_that_comes_back_owes_what_it_had(queue):
    queue.put("a", 50)
    queue.put("b", 1)
    for _ in range(21):
        queue.serve(100)
    queue.put("b", 20)
    queue.put("c", 20)
    served = owners([queue.serve(100) for _ in range(30)])
    assert max(map(served.count, "abc")) - min(map(served.count, "abc")) <= 1


def test_a_key_whose_jobs_wait_behind_all_others_lowers_no_level(queue):
    """It is served last, so its level stays low; a new key must not begin there."""
    queue.put("late", 5, priority=5)
    queue.put("a", 50)
    for _ in range(20):
        queue.serve(100)
    queue.put("b", 20)
    assert owners([queue.serve(100) for _ in range(20)]).count("b") == 10


def test_newcomers_come_one_after_the_other(queue):
    queue.put("a", 50)
    queue.serve(100)
    ids = [queue.put(owner)[0] for owner in "bcdef"]
    assert queue.claim(5) == ids


def test_shares_are_forgotten_when_no_job_waits_or_runs(queue, redis):
    queue.put("a", 3)
    queue.put("b", 1)
    cancelled, *_ = queue.put("c", 2)
    queue.store.cancel(cancelled)
    for _ in range(5):
        queue.serve(10)
    left = {key.decode() for key in redis.keys("omni:*")}
    assert not {key for key in left if key.startswith(("omni:places:", "omni:line:", "omni:served:"))}
    queue.put("d")
    assert redis.hgetall(f"omni:fair:{QUEUE}").keys() == {b"end:d", b"weight:d"}


def test_a_job_that_an_older_worker_has_served_is_left_alone(queue, redis):
    """A worker that is replaced after the API removes jobs from the queue, but not from the key's part of it."""
    queue.put("a")
    served = queue.serve(3)
    redis.zadd(f"omni:line:{QUEUE}:a", {redis.hget(f"omni:job:{served}", "member"): 0})
    [new] = queue.put("a")
    assert queue.claim() == [new]
    assert redis.hget(f"omni:job:{served}", "state") == b"finished"
    assert redis.zrange(f"omni:line:{QUEUE}:a", 0, -1) == []


def test_an_empty_queue_carries_no_credit_over(queue):
    queue.put("a", 100)
    queue.claim(100)
    queue.put("a", 3)
    queue.put("b", 3)
    assert owners(queue.claim(6)) == "bababa"  # a holds a hundred places


def test_jobs_of_a_worker_that_left_are_served_before_newer_ones(queue, redis):
    ids = queue.put("a", 30)
    queue.claim(30)
    new = queue.put("a", 2)
    queue.ledger.release()
    queue.ledger.register()
    assert queue.claim(32) == ids + new


def test_a_key_may_go_ahead_as_far_as_its_right_goes(queue):
    vip = queue.add_key(priority=5)
    waiting = queue.put("a", 3)
    late = queue.put("a", 1, priority=3)
    [ahead] = queue.put(vip, 1, priority=-5)
    assert queue.claim(5) == [ahead, *waiting, *late]
    with pytest.raises(InvalidRequest) as refused:
        queue.put(vip, 1, priority=-6)
    assert refused.value.param == "priority"
    with pytest.raises(InvalidRequest):
        queue.put("a", 1, priority=-1)


def test_the_limits_of_a_key_are_named_when_they_are_reached(queue):
    few = queue.add_key(max_in_flight=3)
    queue.put(few, 2)
    queue.claim(1)
    queue.put(few, 1)
    with pytest.raises(KeyLimited, match="max_in_flight, which is 3") as refused:
        queue.put(few)
    assert refused.value.param == "max_in_flight" and refused.value.quota.num_in_flight == 3
    assert refused.value.retry_after_s == OWN_RETRY_S
    short = queue.add_key(max_queued=1)
    queue.put(short)
    with pytest.raises(KeyLimited, match="max_queued"):
        queue.put(short)
    queue.claim(3)
    queue.put(short)


def test_a_batch_takes_nothing_of_its_key_s_limits_but_tokens_of_the_day(queue, redis):
    few = queue.add_key(max_in_flight=1, max_queued=1, tokens_per_minute=50, tokens_per_day=100)
    lines = queue.put(few, 3, tier="flex", batch="batch_1")
    [own] = queue.put(few)
    assert queue.claim(4) == [own, *lines] and queue.keys.usage(few) == (0, 1)
    queue.ledger.release()
    assert queue.keys.usage(few) == (1, 0)
    with pytest.raises(KeyLimited, match="max_in_flight"):
        queue.put(few)
    queue.put(few, 4, tier="flex", batch="batch_1")
    with pytest.raises(KeyLimited, match="tokens_per_day"):
        queue.put(few, tier="flex", batch="batch_1")


def test_tokens_per_minute_are_reserved_and_what_was_not_used_is_given_back(queue):
    owner = queue.add_key(tokens_per_minute=100)
    [job_id] = queue.put(owner, max_tokens=88)  # 2 of prompt: 90 in all
    with pytest.raises(KeyLimited, match="tokens_per_minute") as refused:
        queue.put(owner, max_tokens=88)
    assert 40 <= refused.value.retry_after_s <= 50
    queue.store.cancel(job_id)
    queue.put(owner, max_tokens=88)


def test_a_request_larger_than_the_budget_waits_for_a_full_one_and_is_not_refused_for_ever(queue):
    owner = queue.add_key(tokens_per_minute=100)
    queue.put(owner, max_tokens=5000)
    with pytest.raises(KeyLimited):
        queue.put(owner, max_tokens=1)


def left_today(queue, owner):
    return int(queue.redis.hget(f"omni:key:{owner}", "tokens_per_day")) - int(
        queue.redis.hget(f"omni:day:{owner}", "tokens")
    )


def test_tokens_per_day_are_reserved_and_settled_to_what_was_used(queue):
    owner = queue.add_key(tokens_per_day=100)
    queue.put(owner, max_tokens=88)
    with pytest.raises(KeyLimited, match="tokens_per_day, which is 100; the day ends at 00:00 UTC, 10") as refused:
        queue.put(owner, max_tokens=88)
    quota = refused.value.quota
    assert (quota.left_today, quota.tokens_per_day) == (10, 100) and 0 < quota.day_left_s <= 86400
    assert refused.value.retry_after_s == math.ceil(quota.day_left_s)
    queue.serve(20)
    assert left_today(queue, owner) == 100 - 22
    [job_id] = queue.put(owner, max_tokens=76)
    queue.store.cancel(job_id)
    assert left_today(queue, owner) == 100 - 22


def test_a_new_day_begins_with_the_whole_limit_and_yesterdays_jobs_take_nothing_from_it(queue):
    owner = queue.add_key(tokens_per_day=100)
    queue.put(owner, max_tokens=98)
    [job_id] = [key.decode() for key in queue.redis.keys("omni:job:*")]
    yesterday = int(queue.redis.hget(job_id, "day")) - 1
    queue.redis.hset(job_id, "day", yesterday)
    queue.redis.hset(f"omni:day:{owner}", "day", yesterday)
    queue.put(owner, max_tokens=48)
    assert left_today(queue, owner) == 50
    queue.serve(98)
    assert left_today(queue, owner) == 50
    queue.serve(40)
    assert left_today(queue, owner) == 58


def test_a_request_larger_than_the_day_is_taken_when_nothing_of_the_day_was_used(queue):
    owner = queue.add_key(tokens_per_day=100)
    queue.put(owner, max_tokens=5000)
    queue.serve(10)
    assert left_today(queue, owner) == 88
    with pytest.raises(KeyLimited):
        queue.put(owner, max_tokens=5000)


def test_tokens_of_a_day_are_exact_over_the_deaths_of_workers(queue, redis):
    owner = queue.add_key(tokens_per_day=1000)
    queue.put(owner, 3, max_tokens=100)
    for _ in range(3):
        queue.claim(2)
        redis.delete(f"omni:worker:{queue.ledger.fence}")
        queue.ledger = Ledger(redis, QUEUE, "again")
        queue.publisher = Publisher(redis, queue.ledger.register())
        queue.ledger.reclaim()
    for job_id in redis.smembers(f"omni:own:queued:{owner}"):
        queue.store.cancel(job_id.decode())
    assert left_today(queue, owner) == 1000


def test_what_a_key_used_is_counted_when_its_job_ends(queue, redis):
    queue.put("a")
    queue.serve(7)
    [job_id] = queue.put("a")
    queue.store.cancel(job_id)
    assert redis.hgetall("omni:key_usage") == {b"a|prompt": b"2", b"a|completion": b"7"}


def test_a_hundred_racing_clients_get_exactly_as_many_places_as_there_are(queue):
    owner = queue.add_key(max_in_flight=20)
    taken, refused = [], []

    def race(number):
        request = GenerationRequest(f"r-{number}", QUEUE, (1,), SamplingParams(max_tokens=1, seed=1))
        try:
            taken.append(
                queue.store.submit(
                    Submission(request, QUEUE, owner, "r", {}), rq_job(queue.redis, f"r-{number}", QUEUE)
                )
            )
        except KeyLimited:
            refused.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(taken), len(refused)) == (20, 80)


def test_places_are_given_back_when_jobs_end_or_their_worker_dies(queue, redis):
    owner = queue.add_key(max_in_flight=2)
    first, _ = queue.put(owner, 2)
    assert queue.claim(1) == [first]
    redis.delete(f"omni:worker:{queue.ledger.fence}")
    queue.ledger.reclaim()
    assert queue.keys.usage(owner) == (2, 0)
    for job_id in redis.smembers(f"omni:own:queued:{owner}"):
        queue.store.cancel(job_id.decode())
    assert queue.keys.usage(owner) == (0, 0)
    queue.put(owner, 2)
