"""Deliveries from end to end: real SQL, a real Valkey, RQ's worker in this thread, a real receiver."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis import Redis
from rq import SimpleWorker
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty
from sqlalchemy import select

from common.records.database import Records
from common.records.events import record_event
from common.records.schema import webhook_deliveries, webhook_endpoints
from common.records.webhooks import add_endpoint
from common.webhooks.addresses import AddressRules
from common.webhooks.signatures import new_secret
from dispatcher.webhooks.deliver import Deliverer
from dispatcher.webhooks.feed import WebhookFeed
from dispatcher.webhooks.jobs import DELIVER, KEEP_HOUSE, again_after, job_class, webhook_queue
from dispatcher.webhooks.schedule import Schedule

OWNER = "a" * 32
HERE = ("127.0.0.0/8",)
# All pauses end at once. RQ's scheduler still waits for a second, so tests let it believe that the second is over.
AT_ONCE = Schedule(pauses_s=(0.0,), cool_down_s=0.0, timeout_s=0.5, give_up_s=1e9)


def add(records: Records, url: str, **values: Any) -> str:
    fixed = {"owner": OWNER, "scope": "own", "name": "n", "event_types": ["*"], "secret": new_secret()}
    with records.begin() as connection:
        return str(add_endpoint(connection, {**fixed, "url": url, **values}).id)


def record(records: Records, *keys: str, type: str = "batch.completed", owner: str = OWNER) -> None:
    with records.begin() as connection:
        for key in keys:
            record_event(connection, owner, type, {"id": key}, key=f"{key}:{type}")


class Rig:
    def __init__(self, records: Records, redis: Redis, schedule: Schedule = AT_ONCE) -> None:
        self.records = records
        self.redis = redis
        self.feed = WebhookFeed(self.records, redis, lambda _: None, schedule)
        self.deliverer = Deliverer(self.records, AddressRules.of(HERE), schedule)
        self.num_jobs = 0
        self.chores: Callable[[], None] = lambda: None

    def worker(self) -> Any:
        return SimpleWorker(
            [webhook_queue(self.redis)],
            connection=self.redis,
            serializer=JSONSerializer,
            job_class=job_class({DELIVER: self.deliver, KEEP_HOUSE: self.chores}),
        )

    def work(self) -> None:
        """Run everything that is queued."""
        worker = self.worker()
        worker.subscribe = worker.unsubscribe = lambda: None  # its thread takes a second to end
        worker.death_penalty_class = TimerDeathPenalty  # RQ's usual one would end pytest's own time limit
        worker.work(burst=True, logging_level="ERROR")

    def deliver(self, delivery_id: str) -> Any:
        self.num_jobs += 1
        return again_after(self.deliverer.deliver(delivery_id))

    def pass_second(self) -> None:
        """Make everything that RQ has scheduled due."""
        queue = webhook_queue(self.redis)
        for job_id in self.redis.zrange(queue.scheduled_job_registry.key, 0, -1):
            self.redis.zadd(queue.scheduled_job_registry.key, {job_id: 1})
        self.feed.tick()

    def rounds(self, number: int) -> None:
        self.feed.tick()
        for _ in range(number):
            self.work()
            self.pass_second()

    def deliveries(self) -> Sequence[Mapping[str, Any]]:
        with self.records.read() as connection:
            query = select(webhook_deliveries).order_by(webhook_deliveries.c.created)
            return [row._mapping for row in connection.execute(query)]

    def states(self) -> list[str]:
        return [delivery["state"] for delivery in self.deliveries()]

    def endpoint(self, endpoint_id: str) -> Mapping[str, Any]:
        with self.records.read() as connection:
            return (
                connection.execute(select(webhook_endpoints).where(webhook_endpoints.c.id == endpoint_id))
                .one()
                ._mapping
            )
