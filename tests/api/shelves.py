"""The API in front of a table of three models, with a worker that is told what to report."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import httpx2
import openai
from redis import Redis
from werkzeug.test import TestResponse

from api.app import create_app
from common.redis import keys
from common.redis.served.adapters import AdapterRecord, AdapterStore
from common.redis.served.shelf import Order, ShelfEntry, ShelfReport, ShelfStore
from common.settings import read_settings
from common.wire import ModelCard
from common.wire_codec import encode_card

TABLE = """
[[model]]
ids = ["org/a", "default"]
model = "demo"
adapters = { sql = "/models/sql" }
[[model]]
id = "b"
model = "demo"
[[model]]
id = "broken"
model = "demo"
"""
KEY = {"Authorization": "Bearer sk-admin"}
GIB = 2**30


class ShelvedApi:
    """org/a is loaded, b is cold, broken could not be loaded and has no card."""

    def __init__(self, redis: "Redis", valkey_url: str, folder: Path, card: ModelCard, **settings: str) -> None:
        self.redis = redis
        self.store = ShelfStore(redis)
        for queue, names in (("org/a", ("org/a", "default")), ("b", ("b",))):
            served = replace(card, queue=queue, names=names, file_bytes=4 * GIB)
            redis.set(keys.card_key(queue), encode_card(served))
            redis.hset(keys.QUEUES, mapping=dict.fromkeys(names, queue))
            redis.hset(keys.CARD_VERSIONS, queue, card.revision)
        AdapterStore(redis).add(AdapterRecord("sql", "org/a", "/models/sql", 1, 5, "aa", is_given=True))
        self.entries = {
            "org/a": ShelfEntry("org/a", "loaded", weights_bytes=4 * GIB, kv_bytes=GIB, loaded_at=1e9, eta_s=0.0),
            "b": ShelfEntry("b", "cold", weights_bytes=2 * GIB, swap_in_s=3.0, eta_s=12.5),
            "broken": ShelfEntry("broken", "failed", fault="it has no weights.", may_retry=False),
        }
        self.orders: list[Order] = []
        self.report()
        (folder / "models.toml").write_text(TABLE)
        given = {"REDIS_URL": valkey_url, "OMNI_MODELS": str(folder / "models.toml"), "OMNI_DATA_DIR": str(folder)}
        keys_ = {"OMNI_ADMIN_KEYS": "sk-admin", "OMNI_API_KEYS": "sk-local"}
        self.app = create_app(read_settings(given | keys_ | settings))

    def report(self, **changes: Any) -> None:
        fields: dict[str, Any] = {
            "worker": "w", "at": time.time(), "device": "cuda:0", "capacity_bytes": 10 * GIB, "used_bytes": 5 * GIB,
            "warm_bytes": GIB, "warm_capacity_bytes": 8 * GIB, "max_loaded": 1, "entries": tuple(self.entries.values()),
        }  # fmt: skip
        self.store.publish(ShelfReport(**fields | changes))

    def change(self, queue: str, **changes: Any) -> None:
        self.entries[queue] = replace(self.entries[queue], **changes)
        self.report()

    def send(self, method: str, path: str, body: Any = None, key: str = "sk-admin") -> TestResponse:
        data = {} if body is None else {"data": json.dumps(body), "content_type": "application/json"}
        headers = {"Authorization": f"Bearer {key}"}
        return self.app.test_client().open(path, method=method, headers=headers, **data)

    def model(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.send("GET", f"/v1/models/{name}").get_json()
        return found

    def openai(self) -> openai.OpenAI:
        http = httpx2.Client(transport=httpx2.WSGITransport(app=self.app))
        return openai.OpenAI(base_url="http://localhost/v1", api_key="sk-admin", http_client=http, max_retries=0)

    def take_orders(self) -> list[Order]:
        return self.store.take_orders(self.entries)

    def obey(self, *steps: dict[str, Any]) -> "gevent.Greenlet[..., None]":
        """Take the next order, then report each of these changes of its model."""

        def work() -> None:
            while not (orders := self.take_orders()):
                gevent.sleep(0.01)
            self.orders += orders
            for step in steps:
                self.change(orders[-1].queue, **step)
                gevent.sleep(0.06)

        return gevent.spawn(work)
