"""Names in Redis that Python uses; the scripts build the same ones. docs/protocol.md describes each."""

import hashlib

CHANNEL = "omni:events:0"  # one message per engine step; 0 is the shard
TASK = "omni.generate"  # the one function name that a job may carry
QUEUES = "omni:queues"  # hash: served id -> queue
REVISIONS = "omni:revisions"  # hash: queue -> revision of the weights
LEASE_MS = 3000
RENEW_S = 0.5
READER_GRACE_S: float = 30
WORKERS = "omni:workers"  # sorted set: the fences that may write


def control_channel(queue: str) -> str:
    """Wakes the queue's workers: 'work', or 'cancel:<job id>'."""
    return f"omni:control:{queue}"


def job_key(job_id: str) -> str:
    return f"omni:job:{job_id}"


def own_jobs_key(owner: str) -> str:
    return f"omni:jobs:{owner}"


def log_key(job_id: str) -> str:
    return f"omni:log:{job_id}"


def card_key(queue: str) -> str:
    return f"omni:card:{queue}"


def loading_key(queue: str) -> str:
    return f"omni:loading:{queue}"


def waiting_key(queue: str) -> str:
    return f"omni:waiting:{queue}"


def worker_key(fence: int | str) -> str:
    return f"omni:worker:{fence}"


def owner_of(api_key: str) -> str:
    """The owner's name in Redis: a hash, so that no key is ever stored. 128 bits of SHA-256, hex."""
    return hashlib.sha256(api_key.encode()).hexdigest()[:32]
