"""The names in Redis, each written once: the scripts are given these constants too. docs/protocol.md describes each.

A name that ends with a colon is followed by a queue, a job, an owner or a fence, as its comment says.
"""

import hashlib
from typing import Literal

# Jobs
JOB = "omni:job:"  # + job; hash of JobField
LOG = "omni:log:"  # + job; stream
TICKET = "omni:ticket"  # counter
IDEM = "omni:idem:"  # + owner:SHA-256 of the Idempotency-Key; hash
# The queue
WAITING = "omni:waiting:"  # + queue; sorted set of members `ticket:job`
OWNER_QUEUE = "omni:line:"  # + queue:owner; sorted set of one owner's members
SUSPECTS = "omni:suspects:"  # + queue; sorted set
DEADLINES = "omni:deadlines:"  # + queue; sorted set
READERS = "omni:readers:"  # + queue; sorted set
AWAKE = "omni:awake:"  # + queue; hash
SERVED = "omni:served:"  # + queue; sorted set of owners
PLACES = "omni:places:"  # + queue; hash
FAIR = "omni:fair:"  # + queue; hash
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
KEY = "omni:key:"  # + owner; hash: a managed key's record
KEY_NAMES = "omni:keys"  # hash: name -> owner
KEYS_VERSION = "omni:keys:version"  # counter
# Models
CARD = "omni:card:"  # + queue; JSON
QUEUES = "omni:queues"  # hash: served id -> queue
REVISIONS = "omni:revisions"  # hash: queue -> revision of the weights
LOADING = "omni:loading:"  # + queue; hash
METRICS = "omni:metrics:"  # + queue, or metrics.SERVICE; hash
# Channels and their messages
EVENTS = "omni:events:0"  # one message per engine step; 0 is the shard
CONTROL = "omni:control:"  # + queue; WORK, or CANCEL + job
WORK = "work"
CANCEL = "cancel:"

TASK = "omni.generate"  # the one function name that a job may carry
LEASE_MS = 3000
RENEW_S = 0.5
READER_GRACE_S: float = 30  # a job without a reader for longer is cancelled

JobField = Literal[
    "queue", "owner", "model", "revision", "ticket", "member", "state", "code", "cancel",
    "request", "form", "trace", "idem", "background", "ttl", "failure_ttl",
    "priority", "weight", "cost", "score", "places", "bytes", "row_bytes",
    "num_prompt", "max_tokens", "tokens", "fence", "worker", "suspect", "crashes", "solo", "made_room",
    "created", "claimed", "first_claimed", "first_row", "ended",
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


def owner_of(api_key: str) -> str:
    """The owner's name in Redis: a hash, so that no key is ever stored. 128 bits of SHA-256, hex."""
    return hashlib.sha256(api_key.encode()).hexdigest()[:32]
