"""A snapshot of the service for the operator: workers, the queue, running jobs, recent failures."""

import time
from collections.abc import Sequence
from typing import Any

from common.redis import keys, rq_seams
from common.redis.keys import JobField
from common.redis.store import Store

MAX_WAITING = 100
MAX_FAILED = 50
JOB_FIELDS: tuple[JobField, ...] = (
    "owner",
    "created",
    "first_claimed",
    "num_prompt",
    "tokens",
    "max_tokens",
    "code",
    "ended",
)


def take_snapshot(store: Store, queue: str) -> dict[str, Any]:
    """All queues at one moment; `queue` may still be unknown to Redis. Ages are in seconds; positions count from 1."""
    now = time.time()
    queues = sorted({queue, *store.directory.models().values()})
    fences = store.directory.fences()
    found = store.redis.pipeline(transaction=False)
    for fence in fences:
        found.zrange(keys.RUNNING + fence, 0, -1)
    for queue in queues:
        found.zrange(keys.waiting_key(queue), 0, MAX_WAITING - 1)
        found.zcard(keys.waiting_key(queue))
        found.zrevrange(rq_seams.RQ_REGISTRY["failed"] + queue, 0, MAX_FAILED - 1)
    replies = found.execute()
    running = [job_id.decode() for ids in replies[: len(fences)] for job_id in ids]
    per_queue = replies[len(fences) :]
    queued = [[member.decode().partition(":")[2] for member in members] for members in per_queue[0::3]]
    failed = [job_id.decode() for ids in per_queue[2::3] for job_id in ids]
    jobs = _jobs(store, [*running, *(job_id for ids in queued for job_id in ids), *failed])
    waiting = [(place + 1, job_id) for ids in queued for place, job_id in enumerate(ids)]
    recent = sorted((job_id for job_id in failed if job_id in jobs), key=lambda job_id: -jobs[job_id]["ended"])
    return {
        "time": round(now, 3),
        "workers": [*(_worker(worker, now) for worker in store.directory.workers()), *_loading(store, queues, now)],
        "waiting": [_waiting(place, job_id, jobs[job_id], now) for place, job_id in waiting if job_id in jobs],
        "running": [_running(job_id, jobs[job_id], now) for job_id in running if job_id in jobs],
        "failed": [_failed(job_id, jobs[job_id], now) for job_id in recent[:MAX_FAILED]],
        "num_waiting": sum(per_queue[1::3]),
    }


def _jobs(store: Store, job_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The jobs that still exist; numbers are numbers."""
    pipeline = store.redis.pipeline(transaction=False)
    for job_id in job_ids:
        pipeline.hmget(keys.job_key(job_id), *JOB_FIELDS)
    found = {}
    for job_id, values in zip(job_ids, pipeline.execute(), strict=True):
        if values[0] is not None:
            texts = dict(zip(JOB_FIELDS, ((value or b"").decode() for value in values), strict=True))
            numbers = {name: int(texts[name] or 0) for name in JOB_FIELDS if name not in ("owner", "code")}
            found[job_id] = texts | numbers
    return found


def _worker(worker: dict[str, str], now: float) -> dict[str, Any]:
    return {
        "fence": int(worker["fence"]),
        "state": worker.get("state", ""),
        "progress": None,
        "queue": worker.get("queue", ""),
        "model": worker.get("model", ""),
        "device": worker.get("device", ""),
        "tokens_per_s": float(worker.get("tokens_per_s", 0)),
        "batch": int(worker.get("num_running", 0)),
        "kv_used": int(worker.get("kv_blocks_used", 0)),
        "kv_total": int(worker.get("kv_blocks_total", 0)),
        "preempted": int(worker.get("num_preempted", 0)),
        "memory_used": int(worker.get("memory_used", 0)),
        "uptime_s": round(now - float(worker.get("started", now)), 1),
    }


def _loading(store: Store, queues: Sequence[str], now: float) -> list[dict[str, Any]]:
    """Workers that are loading their model: they have no fence and no report yet, only their progress."""
    found = []
    for queue in queues:
        if progress := store.directory.loading(queue):
            report = {"fence": "0", "state": "loading", "queue": queue, "model": queue}
            found.append(_worker(report, now) | {"progress": progress})
    return found


def _waiting(place: int, job_id: str, job: dict[str, Any], now: float) -> dict[str, Any]:
    return {
        "id": job_id,
        "position": place,
        "age_s": _age(job["created"], now),
        "owner": job["owner"],
        "prompt_tokens": job["num_prompt"],
    }


def _running(job_id: str, job: dict[str, Any], now: float) -> dict[str, Any]:
    return {
        "id": job_id,
        "age_s": _age(job["first_claimed"], now),
        "owner": job["owner"],
        "tokens": job["tokens"],
        "max_tokens": job["max_tokens"],
    }


def _failed(job_id: str, job: dict[str, Any], now: float) -> dict[str, Any]:
    return {"id": job_id, "code": job["code"], "age_s": _age(job["ended"], now)}


def _age(since_ms: int, now: float) -> float:
    return max(0.0, round(now - since_ms / 1000, 1))
