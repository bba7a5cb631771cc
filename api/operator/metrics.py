"""GET /metrics: what Redis counts and what stands in line now, in Prometheus' form. Any API process gives the same."""

from collections.abc import Iterator, Sequence

from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from api.jobs.service import Service
from common.redis.memory import memory_of
from common.redis.metrics import BOUNDS_MS, SERVICE, read
from common.redis.store import Store

HISTOGRAMS = {
    "time_to_first_token": "From the request's acceptance to its first token.",
    "inter_token_latency": "Between two tokens of an answer, as the worker makes them.",
    "request_queue_time": "In line, until the first worker took the request.",
    "request_prefill_time": "From there to the first token.",
    "request_decode_time": "From the first token to the end.",
    "e2e_request_latency": "From acceptance to the end, of requests that were answered in full.",
}
COUNTERS = {
    "prompt_tokens": "Prompt tokens of requests whose answer has begun.",
    "generation_tokens": "Tokens generated, each once.",
    "prefix_cache_queries": "Prompt tokens looked up in the KV cache.",
    "prefix_cache_hits": "Prompt tokens found there.",
    "num_preemptions": "Sequences that had to give their KV cache up for others.",
    "recomputed_tokens": "Tokens read again because a sequence had lost its KV cache.",
    "resumed_jobs": "Jobs that went on from their log: their worker had gone, or they had made room.",
    "jobs_that_made_room": "Jobs that gave their place to another key's and went on later.",
}
LABELLED = {
    "request_success": ("finished_reason", "Ended answers by reason: stop, length, abort (cancelled), error."),
    "request_failed": ("code", "Jobs that ended without a full answer."),
    "admissions_refused": ("reason", "Requests that were not taken into the line."),
}
WORKER_STATES = ("loading", "ready", "away", "draining")


class Counts:
    """A collector for one scrape."""

    def __init__(self, service: Service) -> None:
        self.store = service.store
        self.queues = sorted({service.settings.model.queue, *service.store.directory.models().values()})
        self.counts = {queue: read(self.store.redis, queue) for queue in self.queues}

    def collect(self) -> Iterator[Metric]:
        for name, text in HISTOGRAMS.items():
            family = HistogramMetricFamily(f"omni:{name}_seconds", text, labels=["model_name"])
            for queue, counts in self.counts.items():
                family.add_metric([queue], *buckets(counts, name))
            yield family
        for name, text in COUNTERS.items():
            yield self._counter(name, text, [(queue, counts.get(name, 0)) for queue, counts in self.counts.items()])
        for name, (label, text) in LABELLED.items():
            labelled = CounterMetricFamily(f"omni:{name}", text, labels=["model_name", label])
            for queue, counts in self.counts.items():
                for field, number in counts.items():
                    if field.startswith(f"{name}|"):
                        labelled.add_metric([queue, field.partition("|")[2]], number)
            yield labelled
        restarts = [(queue, int(self.store.redis.get(f"omni:crashes:{queue}") or 0)) for queue in self.queues]
        yield self._counter("worker_restarts", "Workers that died and were replaced.", restarts)
        yield from self._now()
        yield http_requests(self.store)

    def _now(self) -> Iterator[Metric]:
        """What is so at this moment."""
        workers = self.store.directory.workers()
        for name, text, field in (
            ("num_requests_running", "Sequences in the workers' batches.", "num_running"),
            ("num_preempted", "Sequences that gave their KV cache up and wait for room.", "num_preempted"),
            ("generation_tokens_per_second", "What the workers made in the last second.", "tokens_per_s"),
            ("memory_used_bytes", "The workers' memory: of the GPU, or of the process on a CPU.", "memory_used"),
        ):
            yield self._gauge(name, text, [(queue, total(workers, queue, field)) for queue in self.queues])
        waiting = [(queue, self._num_waiting(queue)) for queue in self.queues]
        yield self._gauge("num_requests_waiting", "Jobs in line.", waiting)
        usage = []
        for queue in self.queues:
            blocks = total(workers, queue, "kv_blocks_total")
            usage.append((queue, total(workers, queue, "kv_blocks_used") / blocks if blocks else 0.0))
        yield self._gauge("kv_cache_usage_perc", "KV cache in use, 1 is all.", usage)
        states = GaugeMetricFamily("omni:workers", "Live workers.", labels=["model_name", "state"])
        for queue in self.queues:
            for state in WORKER_STATES:
                states.add_metric([queue, state], sum((w["queue"], w["state"]) == (queue, state) for w in workers))
        yield states
        yield GaugeMetricFamily(
            "omni:redis_memory_free_ratio", "Of maxmemory.", value=memory_of(self.store.redis).free_ratio
        )

    def _num_waiting(self, queue: str) -> int:
        return self.store.directory.num_waiting(queue) + int(self.store.redis.zcard(f"omni:suspects:{queue}"))

    @staticmethod
    def _counter(name: str, text: str, values: Sequence[tuple[str, int]]) -> Metric:
        family = CounterMetricFamily(f"omni:{name}", text, labels=["model_name"])
        for queue, value in values:
            family.add_metric([queue], value)
        return family

    @staticmethod
    def _gauge(name: str, text: str, values: Sequence[tuple[str, float]]) -> Metric:
        family = GaugeMetricFamily(f"omni:{name}", text, labels=["model_name"])
        for queue, value in values:
            family.add_metric([queue], value)
        return family


def buckets(counts: dict[str, int], name: str) -> tuple[list[tuple[str, float]], float]:
    """Prometheus' cumulative buckets, and the sum in seconds."""
    found, so_far = [], 0
    for number, bound in enumerate(BOUNDS_MS, 1):
        so_far += counts.get(f"{name}:{number}", 0)
        found.append((str(bound / 1000), float(so_far)))
    so_far += counts.get(f"{name}:{len(BOUNDS_MS) + 1}", 0)
    return [*found, ("+Inf", float(so_far))], counts.get(f"{name}:sum", 0) / 1e6


def total(workers: Sequence[dict[str, str]], queue: str, field: str) -> float:
    return sum(float(worker.get(field, 0)) for worker in workers if worker.get("queue") == queue)


def http_requests(store: Store) -> Metric:
    family = CounterMetricFamily("omni:http_requests", "Answers by route.", labels=["method", "route", "status"])
    for field, number in read(store.redis, SERVICE).items():
        family.add_metric(field.partition("|")[2].split(" "), number)
    return family


def metric_routes(service: Service) -> Blueprint:
    routes = Blueprint("metrics", __name__)

    @routes.get("/metrics")
    def metrics() -> Response:
        service.keys.admin(request)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Counts(service))
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return routes
