"""The tables. `created` and other moments are unix seconds; every row belongs to an `owner` (common/redis/keys.py).

The migrations (common/records/migrations) make the same tables; a test compares the two.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()
OWNER = String(64)
ID = String(128)

meta = Table(
    "meta",
    metadata,
    Column("name", String(64), primary_key=True),  # position.py and migrate.py
    Column("value", Text, nullable=False),
)

ledger = Table(
    "ledger",
    metadata,
    Column("owner", OWNER, primary_key=True),
    Column("model", String(256), primary_key=True),
    Column("day", String(10), primary_key=True),  # 2026-11-27, in UTC
    Column("tier", String(16), primary_key=True),
    Column("requests", BigInteger, nullable=False, default=0),  # ended, whatever their end
    Column("failed", BigInteger, nullable=False, default=0),
    Column("cancelled", BigInteger, nullable=False, default=0),
    Column("prompt_tokens", BigInteger, nullable=False, default=0),
    Column("cached_tokens", BigInteger, nullable=False, default=0),
    Column("completion_tokens", BigInteger, nullable=False, default=0),
    Column("gpu_us", BigInteger, nullable=False, default=0),
)

archived_jobs = Table(
    "archived_jobs",
    metadata,
    Column("id", ID, primary_key=True),
    Column("owner", OWNER, nullable=False),
    Column("queue", String(256), nullable=False),
    Column("model", String(256), nullable=False),
    Column("kind", String(32), nullable=False),  # of the answer, as Endpoint.kind
    Column("state", String(16), nullable=False),
    Column("code", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("ended", Float, nullable=False),
    Column("expires", Float),  # None: as long as the conversation that it is part of
    Column("num_prompt", Integer, nullable=False),
    Column("num_tokens", Integer, nullable=False),
    Column("max_tokens", Integer, nullable=False),
    Column("form", LargeBinary, nullable=False),  # the response's metadata: JSON, compressed
    Column("log", LargeBinary, nullable=False),  # the log's entries: JSON lines, compressed
    Column("metadata", JSON),  # of a stored chat completion, as it was last set
    Column("hidden", Boolean, nullable=False, default=False),  # deleted: a conversation may still show its items
    Column("derived", LargeBinary),  # the items of a response, once a conversation was read: JSON, compressed
    Index("archived_jobs_by_owner", "owner", "kind", "created"),
    Index("archived_jobs_by_expiry", "expires"),
)

conversations = Table(
    "conversations",
    metadata,
    Column("id", ID, primary_key=True),
    Column("owner", OWNER, nullable=False),
    Column("created", Float, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("busy_with", ID),  # the response that was last begun in it
    Column("busy_since", Float),
    Index("conversations_by_owner", "owner", "created"),
)

conversation_entries = Table(
    "conversation_entries",
    metadata,
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("conversation_id", ID, ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False),
    Column("response_id", ID),  # the items of this stored response
    Column("item_id", String(256)),  # else of an item of its own or, where `removed`, of an item of a response
    Column("item", JSON),
    Column("removed", Boolean, nullable=False, default=False),
    Index("conversation_entries_in_order", "conversation_id", "position"),
    Index("conversation_entries_by_response", "response_id"),
)

files = Table(
    "files",
    metadata,
    Column("id", ID, primary_key=True),
    Column("owner", OWNER, nullable=False),
    Column("created", Float, nullable=False),
    Column("expires", Float),
    Column("num_bytes", BigInteger, nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", String(32), nullable=False),
    Index("files_by_owner", "owner", "created"),
    Index("files_by_expiry", "expires"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", ID, primary_key=True),
    Column("owner", OWNER, nullable=False),
    Column("dialect", String(16), nullable=False),  # openai or anthropic
    Column("endpoint", String(64), nullable=False),
    Column("input_file_id", ID, nullable=False),
    Column("completion_window", String(16), nullable=False),  # as it was sent
    Column("status", String(16), nullable=False),  # validating failed in_progress finalizing completed expired ...
    Column("metadata", JSON),
    Column("output_ttl", Integer),  # seconds, of the output's files; None: for ever
    Column("idempotency", String(64)),  # SHA-256 of the Idempotency-Key
    Column("body_digest", String(64)),
    Column("created", Float, nullable=False),
    Column("expires", Float, nullable=False),
    Column("in_progress", Float),
    Column("finalizing", Float),
    Column("completed", Float),
    Column("failed", Float),
    Column("expired", Float),
    Column("cancelling", Float),
    Column("cancelled", Float),
    Column("model", String(256)),  # of the first line
    Column("errors", JSON),  # [{code, line, message, param}] of a failed batch
    Column("output_file_id", ID),
    Column("error_file_id", ID),
    Column("num_total", Integer, nullable=False, default=0),
    Column("num_succeeded", Integer, nullable=False, default=0),
    Column("num_errored", Integer, nullable=False, default=0),
    Column("num_expired", Integer, nullable=False, default=0),
    Column("num_cancelled", Integer, nullable=False, default=0),
    Column("prompt_tokens", BigInteger, nullable=False, default=0),
    Column("cached_tokens", BigInteger, nullable=False, default=0),
    Column("completion_tokens", BigInteger, nullable=False, default=0),
    Column("reasoning_tokens", BigInteger, nullable=False, default=0),
    Column("lines_per_s", Float),
    Column("eta", Float),  # when it is expected to end
    Column("archived", Boolean, nullable=False, default=False),  # Anthropic's: the results were deleted
    Column("waiting_for", Text),  # why none of its lines has ended lately
    UniqueConstraint("owner", "idempotency"),
    Index("batches_by_owner", "owner", "created"),
    Index("batches_by_status", "status"),
)

batch_lines = Table(
    "batch_lines",
    metadata,
    Column("batch_id", ID, ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),  # of the line in the input file, from 1
    Column("custom_id", Text, nullable=False),
    Column("outcome", String(16), nullable=False),  # succeeded errored expired cancelled
    Column("status_code", Integer),
    Column("request_id", ID),
    Column("body", LargeBinary),  # the response's JSON, as the API sent it
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("at", Float, nullable=False),
    Column("actor", String(128), nullable=False),  # the key's name at that time, or user@host of a command
    Column("key_id", OWNER),  # None for a command
    Column("address", String(64), nullable=False),  # of the connection, or ""
    Column("forwarded", String(256), nullable=False),  # X-Forwarded-For, as it was sent: anybody can write it
    Column("request_id", String(128), nullable=False),
    Column("action", String(64), nullable=False),  # model.load, key.create, ...
    Column("target", String(256), nullable=False),
    Column("details", JSON, nullable=False),  # never a secret
    Column("outcome", String(16), nullable=False),  # begun succeeded failed
    Column("code", String(64)),  # of the error
    Column("ended", Float),
    Index("audit_log_by_time", "at"),
)

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", ID, primary_key=True),
    Column("owner", OWNER, nullable=False),
    Column("scope", String(8), nullable=False),  # own: the owner's events; all: every key's
    Column("name", Text, nullable=False),
    Column("url", Text, nullable=False),
    Column("event_types", JSON, nullable=False),  # names, or ["*"]
    Column("secret", Text, nullable=False),
    Column("old_secret", Text),
    Column("old_secret_until", Float),
    Column("created", Float, nullable=False),
    Column("updated", Float, nullable=False),
    Column("disabled", Float),  # since when
    Column("disabled_why", Text),
    Column("failing_since", Float),  # the first failure since the last success
    Column("failures", Integer, nullable=False, default=0),  # failed probes since then
    Column("blocked_until", Float, nullable=False, default=0),  # no attempt before
    Index("webhook_endpoints_by_owner", "owner", "created"),
)

webhook_events = Table(
    "webhook_events",
    metadata,
    Column("id", ID, primary_key=True),  # the webhook-id of its deliveries
    Column("owner", OWNER, nullable=False),
    Column("type", String(64), nullable=False),
    Column("created", Float, nullable=False),
    Column("data", JSON, nullable=False),
    Index("webhook_events_by_time", "created"),
    Index("webhook_events_by_owner", "owner"),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", ID, primary_key=True),
    Column("event_id", ID, ForeignKey("webhook_events.id", ondelete="CASCADE"), nullable=False),
    Column("endpoint_id", ID, ForeignKey("webhook_endpoints.id", ondelete="CASCADE"), nullable=False),
    Column("state", String(16), nullable=False),  # pending delivered failed
    Column("attempts", Integer, nullable=False, default=0),
    Column("created", Float, nullable=False),
    Column("began", Float, nullable=False),  # the 72 hours count from here: created, or delivered again by request
    Column("due", Float, nullable=False),  # of the next attempt; during one, when it counts as lost
    Column("handed", Float, nullable=False, default=0),  # to RQ, or seen there; 0: not yet
    Column("attempted", Float),
    Column("ended", Float),
    Column("status_code", Integer),
    Column("error", Text),
    UniqueConstraint("event_id", "endpoint_id"),
    Index("webhook_deliveries_new", "state", "handed"),
    Index("webhook_deliveries_due", "state", "due"),
    Index("webhook_deliveries_by_endpoint", "endpoint_id", "created"),
)
