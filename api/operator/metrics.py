"""GET /metrics: Redis' counters and the current gauges, for Prometheus. The same in every API process."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from api.jobs.service import Service
from common.redis import keys
from common.redis.metrics import BOUNDS_MS, SERVICE, read
from common.redis.server import memory_of
from common.redis.store import Store

HISTOGRAMS: Mapping[str, str] = MappingProxyType(
    {
        "time_to_first_token": "Time from accepting the request to its first token.",
        "inter_token_latency": "Time between two tokens of an answer, measured in the worker.",
        "request_queue_time": "Time in the queue, until a worker first claimed the request.",
        "request_prefill_time": "Time from the claim to the first token.",
        "request_decode_time": "Time from the first token to the end.",
        "e2e_request_latency": "Time from accepting the request to its end, for complete answers.",
    }
)
COUNTERS: Mapping[str, str] = MappingProxyType(
    {
        "prompt_tokens": "Prompt tokens of requests with a first token.",
        "generation_tokens": "Generated tokens.",
        "prefix_cache_queries": "Prompt tokens looked up in the prefix cache.",
        "prefix_cache_hits": "Prompt tokens found in the prefix cache.",
        "num_preemptions": "Sequences whose KV cache was freed for other sequences.",
        "recomputed_tokens": "Tokens prefilled again after a preemption.",
        "spec_decode_num_draft_tokens": "Tokens drafted by speculation and verified.",
        "spec_decode_num_accepted_tokens": "Drafted tokens that proved right.",
        "resumed_jobs": "Jobs resumed from their log after their worker ended or they were preempted for another key.",
        "jobs_that_made_room": "Running jobs returned to the queue for another key's job.",
    }
)
LABELLED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "request_success": ("finished_reason", "Ended answers by reason: stop, length, abort (cancelled), error."),
        "request_failed": ("code", "Failed jobs by error code."),
        "admissions_refused": ("reason", "Requests that were refused before they were enqueued."),
    }
)
WORKER_STATES = ("loading", "ready", "away", "draining")


class Counts:
    """A collector for one scrape. Raises RedisError."""

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
        restarts = [(queue, int(self.store.redis.get(keys.CRASHES + queue) or 0)) for queue in self.queues]
        yield self._counter("worker_restarts", "Workers that died and were replaced.", restarts)
        yield from self._gauges()
        yield http_requests(self.store)

    def _gauges(self) -> Iterator[Metric]:
        """Current gauges."""
        workers = self.store.directory.workers()
        for name, text, field in (
            ("num_requests_running", "Sequences in the workers' batches.", "num_running"),
            ("num_preempted", "Preempted sequences that wait for KV cache.", "num_preempted"),
            ("generation_tokens_per_second", "Tokens generated in the last second.", "tokens_per_s"),
            (
                "memory_used_bytes",
                "Memory in use by the workers: GPU memory, or the process's on a CPU.",
                "memory_used",
            ),
        ):
            yield self._gauge(name, text, [(queue, total(workers, queue, field)) for queue in self.queues])
        waiting = [(queue, self._num_waiting(queue)) for queue in self.queues]
        yield self._gauge("num_requests_waiting", "Jobs in the queue.", waiting)
        usage = []
        for queue in self.queues:
            blocks = total(workers, queue, "kv_blocks_total")
            usage.append((queue, total(workers, queue, "kv_blocks_used") / blocks if blocks else 0.0))
        yield self._gauge("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.", usage)
        states = GaugeMetricFamily("omni:workers", "Live workers by state.", labels=["model_name", "state"])
        for queue in self.queues:
            for state in WORKER_STATES:
                states.add_metric([queue, state], sum((w["queue"], w["state"]) == (queue, state) for w in workers))
        yield states
        yield GaugeMetricFamily(
            "omni:redis_memory_free_ratio",
            "Free share of Redis' maxmemory, 0 to 1.",
            value=memory_of(self.store.redis).free_ratio,
        )

    def _num_waiting(self, queue: str) -> int:
        return self.store.directory.num_waiting(queue) + int(self.store.redis.zcard(keys.SUSPECTS + queue))

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
    family = CounterMetricFamily(
        "omni:http_requests", "HTTP answers by method, route and status.", labels=["method", "route", "status"]
    )
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
