"""The queue, prefill and decode spans of jobs that have ended on this worker."""

from collections import deque

from redis import Redis

from common.redis.keys import JobField, job_key
from common.tracing import Traces

TIMES: tuple[JobField, ...] = ("created", "first_claimed", "first_row", "ended")
MAX_LEFT = 10_000


class JobSpans:
    """The engine's thread calls ended(), the heartbeat's thread send()."""

    def __init__(self, redis: "Redis", traces: Traces | None) -> None:
        self._redis = redis
        self._traces = traces
        self._ended: deque[str] = deque(maxlen=MAX_LEFT)

    def ended(self, job_id: str) -> None:
        if self._traces is not None:
            self._ended.append(job_id)

    def send(self) -> None:
        """Add the spans of all jobs that have ended. Raises RedisError."""
        for _ in range(len(self._ended)):
            job_id = self._ended.popleft()
            if not self._sent(job_id):
                self._ended.append(job_id)  # its end has not reached Redis yet

    def _sent(self, job_id: str) -> bool:
        names: tuple[JobField, ...] = (*TIMES, "trace", "num_prompt", "tokens", "code")
        values = self._redis.hmget(job_key(job_id), names)
        found = {name: (value or b"").decode() for name, value in zip(names, values, strict=True)}
        if self._traces is None or not found["created"] or not found["trace"]:
            return True
        if not found["ended"]:
            return False
        created, claimed, first_row, ended = (int(found[name] or 0) for name in TIMES)
        job = {"omni.job_id": job_id}
        self._traces.add("queue", found["trace"], created, claimed, job)
        prompt = job | {"gen_ai.usage.input_tokens": int(found["num_prompt"] or 0)}
        self._traces.add("prefill", found["trace"], claimed, first_row or ended, prompt)
        if first_row:
            answer = job | {"gen_ai.usage.output_tokens": int(found["tokens"] or 0), "omni.code": found["code"]}
            self._traces.add("decode", found["trace"], first_row, ended, answer)
        return True
