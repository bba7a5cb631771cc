"""The API with a real Valkey and store, a worker that is told what to say, and OpenAI's client in front of it."""

from pathlib import Path
from typing import Any

import httpx2
import openai
from flask import Flask
from redis import Redis

from api.app import create_app
from api.prompt.encoder import PromptEncoder
from common.outbox.stream import Outbox
from common.records.database import Records
from common.redis import keys
from common.settings import read_settings
from common.wire import Event
from common.wire_codec import encode_card
from dispatcher.archive import Archive
from dispatcher.outbox import OutboxConsumer
from tests.api.events import log
from worker.jobs.ledger import Ledger
from worker.jobs.publisher import Publisher

TTL_S = 1000


class Kept:
    """Requests are sent with `background`, so that say() can answer them."""

    def __init__(self, redis: "Redis", valkey_url: str, folder: Path, encoder: PromptEncoder) -> None:
        self.redis = redis
        redis.hset(keys.QUEUES, "tiny", "tiny")
        redis.hset(keys.CARD_VERSIONS, "tiny", encoder.card.revision)
        redis.set(keys.card_key("tiny"), encode_card(encoder.card))
        settings = {"REDIS_URL": valkey_url, "OMNI_MODEL_NAME": "tiny", "OMNI_API_KEYS": "sk-local,sk-other"}
        self.settings = read_settings(settings | {"OMNI_DATA_DIR": str(folder), "OMNI_STORE_TTL": str(TTL_S)})
        self.app: Flask = create_app(self.settings)
        self.records: Records = self.app.extensions["omni"].records
        self.archive = Archive(redis, TTL_S)
        self.outbox = OutboxConsumer(
            Outbox(redis), self.records, lambda _: None, (self.archive.apply,), self.archive.committed
        )
        self.ledger = Ledger(redis, "tiny", "w")
        self.publisher = Publisher(redis, self.ledger.register())

    def openai(self, key: str = "sk-local") -> openai.OpenAI:
        http = httpx2.Client(transport=httpx2.WSGITransport(app=self.app))
        return openai.OpenAI(base_url="http://localhost/v1", api_key=key, http_client=http, max_retries=0)

    def say(self, text: str = "Four.", *, end: Event | None = None) -> str:
        """Answer the next request; returns its job. `end`: instead of its own."""
        claim: Any = self.ledger.claim(0)
        job_id: str = claim.request.id
        self.publisher.open(job_id, claim.num_entries, claim.is_suspect)
        events = log(text)
        self.publisher.send([(job_id, event) for event in (events if end is None else [*events[:-1], end])])
        assert self.publisher.confirm() == {}
        self.publisher.close(job_id)
        return job_id

    def keep(self) -> None:
        """The dispatcher applies the outbox."""
        while self.outbox.apply_page() is None:
            pass

    def forget(self, *job_ids: str) -> None:
        """As if Redis's hour had passed."""
        for job_id in job_ids:
            assert self.redis.delete(keys.job_key(job_id), keys.log_key(job_id)) == 2
