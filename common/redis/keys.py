"""The names in Redis, each written once: the scripts are given these constants too. docs/protocol.md describes each.

A name that ends with a colon is followed by a queue, a job, an owner or a fence, as its comment says.
"""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from common.wire import Tier

# A job's class is its base plus its request's `priority`; the lowest class is claimed first.
BASES: Mapping[Tier, int] = MappingProxyType({"priority": -1000, "default": 0, "flex": 1000})
CLASS_STEP = 10**10  # of a score in the queue: weighs more than any difference in tokens between two owners

# Jobs
JOB = "omni:job:"  # + job; hash of JobField
LOG = "omni:log:"  # + job; stream
TICKET = "omni:ticket"  # counter
IDEM = "omni:idem:"  # + owner:SHA-256 of the Idempotency-Key; hash
# The queue
WAITING = "omni:waiting:"  # + queue; sorted set of members `ticket:job`
OWNER_QUEUE: Mapping[Tier, str] = MappingProxyType(  # + queue:owner; sorted set of one owner's members in the tier
    {"default": "omni:line:", "flex": "omni:flex:line:", "priority": "omni:priority:line:"}
)
SUSPECTS = "omni:suspects:"  # + queue; sorted set
DEADLINES = "omni:deadlines:"  # + queue; sorted set
READERS = "omni:readers:"  # + queue; sorted set
LATER = "omni:later:"  # + queue; sorted set of jobs by the time before which they are not admitted
BACKLOG = "omni:backlog:"  # + queue; hash
PACE = "omni:pace:"  # + queue; hash
AWAKE = "omni:awake:"  # + queue; hash
SERVED: Mapping[Tier, str] = MappingProxyType(  # + queue; sorted set of owners
    {"default": "omni:served:", "flex": "omni:flex:served:", "priority": "omni:priority:served:"}
)
PLACES: Mapping[Tier, str] = MappingProxyType(  # + queue; hash
    {"default": "omni:places:", "flex": "omni:flex:places:", "priority": "omni:priority:places:"}
)
FAIR: Mapping[Tier, str] = MappingProxyType(  # + queue; hash
    {"default": "omni:fair:", "flex": "omni:flex:fair:", "priority": "omni:priority:fair:"}
)
BATCH_LIMIT = "omni:batch_limit:"  # + queue; number
# Workers
FENCE = "omni:fence"  # counter
FENCES = "omni:fences"  # hash: fence -> queue
WORKERS = "omni:workers"  # sorted set: the fences that may write
WORKER = "omni:worker:"  # + fence; hash: the lease and the worker's report
RUNNING = "omni:running:"  # + fence; sorted set of jobs
CLAIMS = "omni:claims"  # hash
CRASHES = "omni:crashes:"  # + queue; counter
# Owners: API keys
OWN_JOBS = "omni:jobs:"  # + owner; sorted set
OWN_QUEUED = "omni:own:queued:"  # + owner; set
OWN_RUNNING = "omni:own:running:"  # + owner; set
KEPT = "omni:kept:"  # + owner; hash: job -> bytes
RATE = "omni:rate:"  # + owner; hash
DAY = "omni:day:"  # + owner; hash
KEY = "omni:key:"  # + owner; hash: a managed key's record
KEY_USAGE = "omni:key_usage"  # hash: owner|kind -> tokens, or microseconds for `gpu_us`
KEY_NAMES = "omni:keys"  # hash: name -> owner
KEYS_VERSION = "omni:keys:version"  # counter
# Models
CARD = "omni:card:"  # + queue; JSON
QUEUES = "omni:queues"  # hash: served id -> queue
CARD_VERSIONS = "omni:card_versions"  # hash: queue -> what changes with its card
ADAPTERS = "omni:adapters"  # hash: name -> JSON
ADAPTERS_VERSION = "omni:adapters:version"  # counter
LOADING = "omni:loading:"  # + queue; hash
SHELF = "omni:shelf"  # hash: worker name -> its ShelfReport as JSON
SHELF_ORDERS = "omni:shelf:orders:"  # + queue; list of JSON: what operators want loaded, unloaded or pinned
METRICS = "omni:metrics:"  # + queue, or metrics.SERVICE; hash
# The dispatcher (docs/protocol.md)
OUTBOX = "omni:outbox"  # stream: one entry for each ended job
INTERNAL = "omni:internal"  # the secret by which the API knows the dispatcher
DISPATCHER = "omni:dispatcher"  # the lease of the one dispatcher that works
OUTBOX_LIFE = "omni:outbox:life"  # text
# Channels and their messages
DISPATCH = "omni:dispatch"  # wakes the dispatcher: a batch was made or cancelled
EVENTS = "omni:events:0"  # one message per engine step; 0 is the shard
CONTROL = "omni:control:"  # + queue; WORK, ADAPT, ORDERED, or CANCEL + job
WORK = "work"
ORDERED = "ordered"  # there is an order for the shelf
ADAPT = "adapt"
CANCEL = "cancel:"

TASK = "omni.generate"  # the one function name that a job may carry
LEASE_MS = 3000
RENEW_S = 0.5
READER_GRACE_S: float = 30  # a job without a reader for longer is cancelled

JobField = Literal[
    "queue", "owner", "model", "revision", "ticket", "member", "state", "code", "cancel",
    "request", "form", "trace", "idem", "background", "ttl", "failure_ttl",
    "tier", "class", "priority", "weight", "cost", "day", "day_cost", "places", "bytes", "row_bytes",
    "num_prompt", "max_tokens", "tokens", "fence", "worker", "suspect", "crashes", "solo", "made_room",
    "created", "claimed", "first_claimed", "first_row", "ended",
    "kind", "batch", "archive", "cached", "gpu_us", "finish_reason",
    "planned", "expected", "queued", "told", "deadline", "not_before",
]  # fmt: skip


def job_key(job_id: str) -> str:
    return JOB + job_id


def log_key(job_id: str) -> str:
    return LOG + job_id


def waiting_key(queue: str) -> str:
    return WAITING + queue


def card_key(queue: str) -> str:
    return CARD + queue


def worker_key(fence: int | str) -> str:
    return f"{WORKER}{fence}"


def digest_of(api_key: str) -> str:
    """SHA-256, hex. A key from the environment may hold bytes that are no UTF-8."""
    return hashlib.sha256(api_key.encode("utf-8", "surrogateescape")).hexdigest()


def owner_of(api_key: str) -> str:
    """The owner's name in Redis: a hash, so that no key is ever stored. 128 bits of SHA-256, hex."""
    return digest_of(api_key)[:32]
