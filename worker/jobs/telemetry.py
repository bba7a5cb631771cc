"""Metrics that only the worker can measure: time between tokens, cache hits, rates. Sent to Redis twice a second."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any

from redis import Redis

from common.redis.metrics import Tally
from common.tracing import Traces
from common.wire import Delta, Event, Failed, Finished
from worker.jobs.job_spans import JobSpans
from worker.jobs.ledger import Claim

logger = logging.getLogger("omni.worker")

RATE_WINDOW_S = 10.0
FIRST_GUESS_S = 0.05  # of the time between two tokens, as in pace.lua
PACE_SHARE = 1 / 64  # of the newest time in the average

# a growing number of EngineStats -> its counter
GROWING: Mapping[str, str] = MappingProxyType(
    {
        "prompt_tokens": "prefix_cache_queries",
        "cached_tokens": "prefix_cache_hits",
        "num_preemptions": "num_preemptions",
        "recomputed_tokens": "recomputed_tokens",
        "drafts": "spec_decode_num_drafts",
        "draft_tokens": "spec_decode_num_draft_tokens",
        "accepted_tokens": "spec_decode_num_accepted_tokens",
    }
)


class JobRate:
    """Jobs ended per second, over the last whole window."""

    def __init__(self) -> None:
        self._num_ended = 0
        self._since = time.monotonic()
        self._per_s = 0.0

    def count(self) -> None:
        self._num_ended += 1

    def per_s(self) -> float:
        elapsed_s = time.monotonic() - self._since
        if elapsed_s > RATE_WINDOW_S:
            self._per_s = round(self._num_ended / elapsed_s, 4)
            self._num_ended, self._since = 0, time.monotonic()
        return self._per_s


class AnswerTimes:
    """How long the running answers will go on: by their expected lengths, and the pace of tokens."""

    def __init__(self) -> None:
        self._token_s = FIRST_GUESS_S  # between two tokens of a choice
        self._left: dict[str, tuple[float, float, float]] = {}  # job -> tokens of a choice: done, expected, at most
        self.resuming: set[str] = set()  # jobs whose logged tokens are being computed again

    def begin(self, claim: Claim) -> None:
        sampling = claim.request.sampling
        most = float(sampling.max_tokens)
        expected = min(most, claim.expected_tokens / sampling.n) or most
        done = sum(len(choice.token_ids) for choice in claim.logged.values()) / sampling.n
        self._left[claim.request.id] = done, expected, most
        if done:
            self.resuming.add(claim.request.id)

    def forget(self, job_id: str) -> None:
        self._left.pop(job_id, None)
        self.resuming.discard(job_id)

    def generated(self, job_id: str, num_tokens: int, num_choices: int) -> None:
        self.resuming.discard(job_id)
        if job_id in self._left:
            done, expected, most = self._left[job_id]
            self._left[job_id] = done + num_tokens / num_choices, expected, most

    def token_took(self, seconds: float) -> None:
        self._token_s += PACE_SHARE * (seconds - self._token_s)

    def left_s(self) -> float:
        """Until the last answer is expected to end. As pace.lua: one past its expected length is half of a new one."""
        rows = self._left.values()
        left = [max(expected - done, (most - done) * expected / most / 2, 0) for done, expected, most in rows]
        return max(left, default=0.0) * self._token_s


class Telemetry:
    """The engine's thread calls observe(), the heartbeat's thread report()."""

    def __init__(self, redis: "Redis", queue: str, device: str, traces: Traces | None = None) -> None:
        self.device = device
        self._redis = redis
        self._tally = Tally(queue)
        self._spans = JobSpans(redis, traces)
        self.times = AnswerTimes()
        self._last_token: dict[str, dict[int, float]] = {}  # job -> choice -> when
        self._last_stats: dict[str, int] = {}
        self._num_generated = 0  # not reported yet
        self._lock = Lock()
        self._reported = time.monotonic()

    def observe(self, events: Sequence[tuple[str, Event]], num_tokens: int) -> None:
        """Measure the events of a step, and how many tokens it computed."""
        if num_tokens:
            self._tally.observe("iteration_tokens_total", num_tokens)
        now = time.monotonic()
        for job_id, event in events:
            if not isinstance(event, Delta):
                self._log_end(job_id, event)
                self._spans.ended(job_id)
                self.forget(job_id)
            elif event.token_ids:
                times = self._last_token.setdefault(job_id, {})
                if event.index in times:
                    gap_ms = (now - times[event.index]) * 1000 / len(event.token_ids)
                    self._tally.observe("inter_token_latency", gap_ms, len(event.token_ids))
                    self.times.token_took(gap_ms / 1000)
                times[event.index] = now
                self.times.generated(job_id, len(event.token_ids), len(times))

    def loaded(self, reason: str, seconds: float | None) -> None:
        """The model was loaded; `seconds`: None if it had not left."""
        if seconds is not None:
            self._tally.add(f"model_swaps|{reason}")
            self._tally.observe("model_swap_time", seconds * 1000)

    def forget(self, job_id: str) -> None:
        self._last_token.pop(job_id, None)
        self.times.forget(job_id)

    def _log_end(self, job_id: str, event: Event) -> None:
        fields: dict[str, Any] = {"job_id": job_id}
        if isinstance(event, Finished):
            fields |= {"prompt_tokens": event.prompt_tokens, "completion_tokens": event.completion_tokens}
            text, level = f"{event.prompt_tokens} tokens read, {event.completion_tokens} written", logging.INFO
        else:
            text, level = event.code if isinstance(event, Failed) else "", logging.WARNING
        state = "finished" if isinstance(event, Finished) else "failed"
        logger.log(level, "%s %s: %s", job_id, state, text, extra={"fields": fields})

    def count(self, stats: Mapping[str, Any]) -> None:
        """Count what has grown since the last call."""
        with self._lock:
            self._num_generated += self._growth("generated_tokens", stats)
            for name, counter in GROWING.items():
                self._tally.add(counter, self._growth(name, stats))

    def report(self, stats: Mapping[str, Any]) -> dict[str, Any]:
        """Send the counts; returns the fields of the worker's report beyond its stats. Raises RedisError."""
        now = time.monotonic()
        elapsed_s, self._reported = now - self._reported, now
        self.count(stats)
        num_generated, self._num_generated = self._num_generated, 0
        self._tally.flush(self._redis)
        self._spans.send()
        return {
            "device": self.device,
            "tokens_per_s": round(num_generated / elapsed_s, 1) if elapsed_s > 0 else 0.0,
            "memory_used": stats.get("memory_used_bytes") or resident_bytes(),
        }

    def _growth(self, name: str, stats: Mapping[str, Any]) -> int:
        total = int(stats.get(name, 0))
        before, self._last_stats[name] = self._last_stats.get(name, 0), total
        return max(0, total - before)


def resident_bytes() -> int:
    """This process's memory, for workers without a GPU; 0 where the system has no /proc."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
