"""RQ's queue for work that is not a model's: deliveries and housekeeping, as JSON, by two names only."""

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from redis import Redis
from rq import Queue, Retry
from rq.job import Job
from rq.rate_limit import RateLimit, RateLimitRegistry
from rq.registry import ScheduledJobRegistry
from rq.serializers import JSONSerializer

from common.setting_types import WEBHOOK_QUEUE

DELIVER = "omni.deliver"
KEEP_HOUSE = "omni.keep_house"
NUM_WORKERS = 4
PER_ENDPOINT = 2  # of the workers at once, so that a hanging receiver leaves others free
JOB_TIMEOUT_S = 60  # far more than an attempt takes
FAILURE_TTL_S = 24 * 3600
# What RQ repeats by itself: a job that could not be run, because the database was away or the worker was killed.
FAULT_PAUSES_S = (5, 30, 120)
ALWAYS = 1_000_000  # retries of a delivery: its own schedule ends it
UNTRUSTED = frozenset(
    {"success_callback_name", "failure_callback_name", "stopped_callback_name", "webhooks", "dependency_ids"}
)

Task = Callable[..., Any]


class DispatcherJob(Job):  # type: ignore[misc]
    """Runs what `tasks` names and nothing else: a job's record in Redis cannot choose code, callbacks or URLs."""

    tasks: ClassVar[Mapping[str, Task]] = MappingProxyType({})

    @property
    def func(self) -> Task:
        name = self.func_name
        if name not in self.tasks:
            raise PermissionError(f"{name!r} is no task of the dispatcher")
        return self.tasks[name]

    def restore(self, raw_data: Mapping[bytes, bytes]) -> Any:
        return super().restore({name: value for name, value in raw_data.items() if name.decode() not in UNTRUSTED})


def job_class(tasks: Mapping[str, Task]) -> type[DispatcherJob]:
    return type("BoundJob", (DispatcherJob,), {"tasks": MappingProxyType(dict(tasks))})


def webhook_queue(redis: Redis) -> Queue:
    return Queue(WEBHOOK_QUEUE, connection=redis, serializer=JSONSerializer, default_timeout=JOB_TIMEOUT_S)


def rate_limit(endpoint_id: str) -> RateLimit:
    return RateLimit(f"{WEBHOOK_QUEUE}:{endpoint_id}", PER_ENDPOINT)


def enqueue_delivery(queue: Queue, delivery_id: str, endpoint_id: str) -> None:
    """The job's id is the delivery's: whoever enqueues it again has the same job."""
    queue.enqueue_call(
        DELIVER,
        args=(delivery_id,),
        job_id=delivery_id,
        description=delivery_id,
        result_ttl=0,
        failure_ttl=FAILURE_TTL_S,
        retry=Retry(len(FAULT_PAUSES_S), list(FAULT_PAUSES_S)),
        rate_limit=rate_limit(endpoint_id),
    )


def replace_delivery(queue: Queue, delivery_id: str, endpoint_id: str) -> None:
    """Enqueue a delivery that RQ has lost, without what its killed worker left behind."""
    drop_delivery(queue, delivery_id, endpoint_id)
    enqueue_delivery(queue, delivery_id, endpoint_id)


def drop_delivery(queue: Queue, delivery_id: str, endpoint_id: str) -> None:
    """Remove the job and its place, which a killed worker never gives back.

    Job.delete() reads the job's state in between, and fails when a worker ends the job at that moment.
    """
    with queue.connection.pipeline() as pipe:
        pipe.delete(Job.key_for(delivery_id))
        pipe.zrem(places(queue, endpoint_id).allowed_key, delivery_id)
        pipe.execute()


def places(queue: Queue, endpoint_id: str) -> RateLimitRegistry:
    return RateLimitRegistry(rate_limit(endpoint_id).key, queue.connection)


def held_places(queue: Queue, endpoint_id: str) -> list[str]:
    """The deliveries that hold their endpoint's places and are not in the queue: workers have them, or had them."""
    holders = places(queue, endpoint_id).get_allowed_job_ids()
    return [delivery_id for delivery_id in holders if queue.connection.lpos(queue.key, delivery_id) is None]


def free_places(queue: Queue, delivery_ids: Sequence[str], endpoint_id: str) -> None:
    """Give the places of these deliveries to those that wait for one."""
    for delivery_id in delivery_ids:
        drop_delivery(queue, delivery_id, endpoint_id)
    places(queue, endpoint_id).acquire_and_enqueue(PER_ENDPOINT)


def waits_in_rq(queue: Queue, delivery_id: str, endpoint_id: str) -> bool:
    """Whether RQ will run it: it is queued, scheduled, or waits for a place of its endpoint."""
    registry = places(queue, endpoint_id)
    with queue.connection.pipeline(transaction=False) as pipe:
        pipe.lpos(queue.key, delivery_id)
        pipe.zscore(ScheduledJobRegistry(queue=queue).key, delivery_id)
        pipe.zscore(registry.rate_limited_key, delivery_id)
        pipe.exists(Job.key_for(delivery_id))
        queued, scheduled, limited, exists = pipe.execute()
    return bool(exists) and any(place is not None for place in (queued, scheduled, limited))


def again_after(seconds: float | None) -> Retry | None:
    """The result by which a job asks RQ's scheduler to run it again."""
    return None if seconds is None else Retry(ALWAYS, max(1, math.ceil(seconds)))
