"""A snapshot of the service for the operator: workers, the queue, running and scheduled jobs, recent failures."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from common.redis import keys, rq_seams
from common.redis.keys import JobField
from common.redis.served.shelf import ShelfStore
from common.redis.store import Store
from common.wire import TIERS

MAX_WAITING = 100
MAX_FAILED = 50
MAX_SCHEDULED = 20
JOB_FIELDS: tuple[JobField, ...] = (
    "owner",
    "tier",
    "created",
    "first_claimed",
    "num_prompt",
    "tokens",
    "max_tokens",
    "code",
    "ended",
    "not_before",
)


def take_snapshot(store: Store, expected: Iterable[str]) -> dict[str, Any]:
    """All queues, read one after the other; those that are expected may still be unknown to Redis.

    Ages are in seconds; positions count from 1.
    """
    now = time.time()
    queues = sorted({*expected, *store.directory.models().values()})
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
    scheduled, num_scheduled = _soonest(store, queues)
    jobs = _jobs(store, [*running, *(job_id for ids in queued for job_id in ids), *failed, *scheduled])
    waiting = [(place + 1, job_id) for ids in queued for place, job_id in enumerate(ids)]
    waits = {
        queue: _wait(num, [jobs[job_id] for job_id in ids if job_id in jobs], now)
        for queue, ids, num in zip(queues, queued, per_queue[1::3], strict=True)
    }
    outlooks = store.jobs.outlooks([job_id for _, job_id in waiting])
    recent = sorted((job_id for job_id in failed if job_id in jobs), key=lambda job_id: -jobs[job_id]["ended"])
    return {
        "time": round(now, 3),
        "workers": [*(_worker(worker, now) for worker in store.directory.workers()), *_loading(store, queues, now)],
        "waiting": [
            _waiting(place, job_id, jobs[job_id], now) | {"eta_s": eta_of(outlooks[job_id].eta_s)}
            for place, job_id in waiting
            if job_id in jobs
        ],
        "running": [_running(job_id, jobs[job_id], now) for job_id in running if job_id in jobs],
        "failed": [_failed(job_id, jobs[job_id], now) for job_id in recent[:MAX_FAILED]],
        "num_waiting": sum(per_queue[1::3]),
        "scheduled": [_scheduled(job_id, jobs[job_id]) for job_id in scheduled if job_id in jobs],
        "num_scheduled": num_scheduled,
        "tiers": _tiers(store, queues),
        "shelves": _shelves(store, waits),
    }


def _wait(num_waiting: int, first: Iterable[dict[str, Any]], now: float) -> dict[str, Any]:
    """Of one model's queue. `first`: its first MAX_WAITING jobs, among which the longest wait is looked for."""
    return {
        "num_waiting": num_waiting,
        "longest_wait_s": max((_age(job["created"], now) for job in first), default=0.0),
    }


def _shelves(store: Store, waits: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The models of each worker that has several, and what waits for them."""
    nothing = _wait(0, (), 0.0)
    shelves = [asdict(report) for report in ShelfStore(store.redis).reports()]
    for shelf in shelves:
        shelf["entries"] = [entry | waits.get(entry["queue"], nothing) for entry in shelf["entries"]]
    return shelves


def _soonest(store: Store, queues: Sequence[str]) -> tuple[list[str], int]:
    """The jobs that are admitted next, and how many there are in all."""
    found = store.redis.pipeline(transaction=False)
    for queue in queues:
        found.zrange(keys.LATER + queue, 0, MAX_SCHEDULED - 1, withscores=True)
        found.zcard(keys.LATER + queue)
    replies = found.execute()
    soonest = sorted((time_ms, job_id.decode()) for jobs in replies[0::2] for job_id, time_ms in jobs)
    return [job_id for _, job_id in soonest[:MAX_SCHEDULED]], sum(replies[1::2])


def _tiers(store: Store, queues: Sequence[str]) -> dict[str, dict[str, int]]:
    """Of each tier, how many jobs wait and how many sequences run."""
    directory = store.directory
    return {
        tier: {
            "waiting": sum(directory.num_waiting_in(queue, tier) for queue in queues),
            "running": sum(directory.num_running_in(queue, tier) for queue in queues),
        }
        for tier in TIERS
    }


def eta_of(eta_s: float) -> float | None:
    """None while nothing has been measured."""
    return round(eta_s, 1) if eta_s >= 0 else None


def _jobs(store: Store, job_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The jobs that still exist; numbers are numbers."""
    pipeline = store.redis.pipeline(transaction=False)
    for job_id in job_ids:
        pipeline.hmget(keys.job_key(job_id), *JOB_FIELDS)
    found = {}
    for job_id, values in zip(job_ids, pipeline.execute(), strict=True):
        if values[0] is not None:
            texts = dict(zip(JOB_FIELDS, ((value or b"").decode() for value in values), strict=True))
            numbers = {name: int(texts[name] or 0) for name in JOB_FIELDS if name not in ("owner", "tier", "code")}
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
        "tier": job["tier"] or "default",
        "prompt_tokens": job["num_prompt"],
    }


def _running(job_id: str, job: dict[str, Any], now: float) -> dict[str, Any]:
    return {
        "id": job_id,
        "age_s": _age(job["first_claimed"], now),
        "owner": job["owner"],
        "tier": job["tier"] or "default",
        "tokens": job["tokens"],
        "max_tokens": job["max_tokens"],
    }


def _failed(job_id: str, job: dict[str, Any], now: float) -> dict[str, Any]:
    """`ended` is unix seconds."""
    return {
        "id": job_id,
        "code": job["code"],
        "age_s": _age(job["ended"], now),
        "ended": job["ended"] / 1000,
        "owner": job["owner"],
        "tier": job["tier"] or "default",
        "tokens": job["tokens"],
        "max_tokens": job["max_tokens"],
    }


def _scheduled(job_id: str, job: dict[str, Any]) -> dict[str, Any]:
    """`not_before` is unix seconds."""
    return {
        "id": job_id,
        "owner": job["owner"],
        "tier": job["tier"] or "default",
        "not_before": job["not_before"] / 1000,
    }


def _age(since_ms: int, now: float) -> float:
    return max(0.0, round(now - since_ms / 1000, 1))
