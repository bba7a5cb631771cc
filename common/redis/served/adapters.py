"""The adapters that are served, by name: what the API offers and what every worker of their base has to load.

    ADAPTERS          hash: name -> AdapterRecord as JSON
    ADAPTERS_VERSION  counts changes, so that workers know when to read again

A worker reports the version that it follows, and the adapters that it could not load, in its own record.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import orjson
from redis import Redis
from redis.client import Pipeline

from common.json_bytes import json_bytes
from common.redis import keys


@dataclass(frozen=True, slots=True)
class AdapterRecord:
    """One adapter. It is offered as a model once it is ready: when every worker has loaded it."""

    name: str
    queue: str  # of its base
    path: str  # on the workers' machines
    number: int  # of its loading: another one for the same name is another adapter
    created: int  # unix seconds
    revision: str = ""  # of its content; empty until it is ready
    is_given: bool = False  # by OMNI_ADAPTERS

    @property
    def is_ready(self) -> bool:
        return bool(self.revision)


def full_revision(base: str, adapter: str) -> str:
    """The revision of the weights that compute a request: of the model, and of the adapter if it has one."""
    return f"{base}+{adapter}" if adapter else base


class AdapterStore:
    """Every method may raise redis.exceptions.RedisError."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    def version(self) -> int:
        return int(self._redis.get(keys.ADAPTERS_VERSION) or 0)

    def all(self) -> dict[str, AdapterRecord]:
        return {name.decode(): record_of(raw) for name, raw in self._redis.hgetall(keys.ADAPTERS).items()}

    def get(self, name: str) -> AdapterRecord | None:
        raw = self._redis.hget(keys.ADAPTERS, name)
        return record_of(raw) if raw else None

    def add(self, record: AdapterRecord) -> int:
        """Have it loaded by all workers; returns the version of this change, or 0 if the name is taken."""
        return self._changed(record.queue, record.name, None, record)

    def set_ready(self, record: AdapterRecord) -> bool:
        """False if it is another one, or gone, by now."""
        return self._changed(record.queue, record.name, record.number, record) > 0

    def remove(self, record: AdapterRecord) -> int:
        """Returns the version of this change, or 0 if it is another one, or gone, by now."""
        return self._changed(record.queue, record.name, record.number, None)

    def give(self, queue: str, given: Mapping[str, AdapterRecord]) -> None:
        """Set those that OMNI_ADAPTERS gives this queue: all of them, and no others."""
        former = {name for name, record in self.all().items() if record.queue == queue and record.is_given}
        if not former and not given:
            return
        with self._redis.pipeline(transaction=True) as pipeline:
            for name in former - given.keys():
                pipeline.hdel(keys.ADAPTERS, name)
            for name, record in given.items():
                pipeline.hset(keys.ADAPTERS, name, json_bytes(asdict(record)))
            announce(pipeline, queue).execute()

    def _changed(self, queue: str, name: str, expected: int | None, record: AdapterRecord | None) -> int:
        """Replace the record whose number is `expected`, None for no record; returns the new version, or 0."""

        def change(pipeline: "Pipeline") -> None:
            raw = pipeline.hget(keys.ADAPTERS, name)
            found = record_of(raw).number if raw else None
            pipeline.multi()
            if found != expected:
                return
            if record is None:
                pipeline.hdel(keys.ADAPTERS, name)
            else:
                pipeline.hset(keys.ADAPTERS, name, json_bytes(asdict(record)))
            announce(pipeline, queue)

        answers = self._redis.transaction(change, keys.ADAPTERS)
        return int(answers[1]) if answers else 0


def announce(pipeline: "Pipeline", queue: str) -> "Pipeline":
    """Count a change, and tell the workers."""
    return pipeline.incr(keys.ADAPTERS_VERSION).publish(keys.CONTROL + queue, keys.ADAPT)


def record_of(raw: bytes) -> AdapterRecord:
    fields: dict[str, Any] = orjson.loads(raw)
    return AdapterRecord(**{name: fields[name] for name in AdapterRecord.__slots__ if name in fields})
