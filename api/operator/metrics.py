"""GET /metrics: Redis' counters and the current gauges, for Prometheus. The same in every API process."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any

from flask import Blueprint, Response, request
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from api.jobs.service import Service
from api.operator.shelf_metrics import shelf_metrics
from api.operator.stored_work import StoredCounts
from common.records.batches import OUTCOMES
from common.redis import keys
from common.redis.metrics import BOUNDS_MS, SERVICE, read
from common.redis.served.shelf import nearest
from common.redis.server import memory_of
from common.redis.store import Store
from common.wire import TIERS

HISTOGRAMS: Mapping[str, str] = MappingProxyType(
    {
        "time_to_first_token": "Time from accepting the request to its first token.",
        "inter_token_latency": "Time between two tokens of an answer, measured in the worker.",
        "request_queue_time": "Time in the queue, until a worker first claimed the request.",
        "request_prefill_time": "Time from the claim to the first token.",
        "request_decode_time": "Time from the first token to the end.",
        "request_time_per_output_token": "Mean time between two tokens of a complete answer.",
        "request_inference_time": "Time from the claim to the end, for complete answers.",
        "e2e_request_latency": "Time from accepting the request to its end, for complete answers.",
        "model_swap_time": "Time that loading a model of a table took.",
    }
)
TOKENS: Mapping[str, str] = MappingProxyType(
    {
        "request_prompt_tokens": "Prompt tokens of a complete answer's request.",
        "request_generation_tokens": "Tokens of a complete answer.",
        "request_params_max_tokens": "The most tokens that a request with a complete answer could have.",
        "request_params_n": "Choices of a request with a complete answer.",
        "iteration_tokens_total": "Tokens that a step computed: of prompts, of answers, and drafts.",
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
        "spec_decode_num_drafts": "Drafts of one token or more that were verified.",
        "spec_decode_num_draft_tokens": "Tokens drafted by speculation and verified.",
        "spec_decode_num_accepted_tokens": "Drafted tokens that proved right.",
        "resumed_jobs": "Jobs resumed from their log after their worker ended or they were preempted for another key.",
        "jobs_that_made_room": "Running jobs returned to the queue for another key's job of the same tier.",
        "paused_jobs": "Running jobs returned to the queue for a job of an earlier tier.",
    }
)
LABELLED: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "request_success": ("finished_reason", "Ended answers by reason: stop, length, abort (cancelled), error."),
        "request_failed": ("code", "Failed jobs by error code."),
        "model_swaps": ("reason", "Models of a table that were loaded, by reason."),
        "admissions_refused": ("reason", "Requests that were refused before they were enqueued."),
    }
)
# Name, label, what it counts and the label's values: of the store, where rows are kept for OMNI_STORE_TTL.
STORED: Sequence[tuple[str, str, str, Sequence[str]]] = (
    (
        "batches",
        "status",
        "Batches that are kept, by status.",
        ("validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"),
    ),
    ("batch_lines", "outcome", "Lines of the batches that are kept, by outcome.", ("waiting", *OUTCOMES)),
    ("webhook_deliveries", "state", "Webhook deliveries that are kept, by state.", ("pending", "delivered", "failed")),
)
WORKER_STATES = ("loading", "ready", "away", "draining")


class Counts:
    """A collector for one scrape. Raises RedisError."""

    def __init__(self, service: Service, stored: Mapping[str, Any]) -> None:
        self.stored = stored
        self.store = service.store
        self.names = service.keys.names()
        self.queues = sorted(service.store.directory.watched(service.models.expected.values()))
        self.places = service.models.places(self.queues)
        self.reports = service.models.shelf.reports()
        self.shelf = nearest(self.reports)
        self.counts = {queue: read(self.store.redis, queue) for queue in self.queues}

    def collect(self) -> Iterator[Metric]:
        for name, text in HISTOGRAMS.items():
            family = HistogramMetricFamily(f"omni:{name}_seconds", text, labels=["model_name"])
            for queue, counts in self.counts.items():
                family.add_metric([queue], *buckets(counts, name))
            yield family
        for name, text in TOKENS.items():
            family = HistogramMetricFamily(f"omni:{name}", text, labels=["model_name"])
            for queue, counts in self.counts.items():
                family.add_metric([queue], *buckets(counts, name, 1))
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
        yield from shelf_metrics(self.reports, self.places)
        yield http_requests(self.store)
        yield from key_usage(self.store, self.names)
        yield from stored_counts(self.stored)

    def _gauges(self) -> Iterator[Metric]:
        """Current gauges."""
        workers = self.store.directory.workers()
        for name, text, field in (
            ("num_requests_running", "Sequences in the workers' batches.", "num_running"),
            ("num_preempted", "Preempted sequences that wait for KV cache.", "num_preempted"),
            ("generation_tokens_per_second", "Tokens generated in the last second.", "tokens_per_s"),
        ):
            yield self._gauge(name, text, [(queue, total(workers, queue, field)) for queue in self.queues])
        memory = [(queue, self._memory_used(workers, queue)) for queue in self.queues]
        text = "Memory in use by the workers: GPU memory, or the process's on a CPU; of a table the model's own."
        yield self._gauge("memory_used_bytes", text, memory)
        waiting = [(queue, self._num_waiting(queue)) for queue in self.queues]
        yield self._gauge("num_requests_waiting", "Jobs in the queue.", waiting)
        yield self._by_tier("num_requests_waiting_by_tier", "Jobs in the queue, by service tier.", "num_waiting_in")
        yield self._by_tier("num_requests_running_by_tier", "Sequences in batches, by service tier.", "num_running_in")
        usage = []
        for queue in self.queues:
            blocks = total(workers, queue, "kv_blocks_total")
            usage.append((queue, total(workers, queue, "kv_blocks_used") / blocks if blocks else 0.0))
        yield self._gauge("kv_cache_usage_perc", "Share of the KV cache in use, 0 to 1.", usage)
        yield cache_config(workers)
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

    def _memory_used(self, workers: Sequence[dict[str, str]], queue: str) -> float:
        entry = self.shelf.get(queue)
        return total(workers, queue, "memory_used") if entry is None else entry.memory_bytes

    def _num_waiting(self, queue: str) -> int:
        return self.store.directory.num_waiting(queue) + int(self.store.redis.zcard(keys.SUSPECTS + queue))

    def _by_tier(self, name: str, text: str, read_name: str) -> Metric:
        family = GaugeMetricFamily(f"omni:{name}", text, labels=["model_name", "tier"])
        for queue, tier in product(self.queues, TIERS):
            family.add_metric([queue, tier], getattr(self.store.directory, read_name)(queue, tier))
        return family

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


def buckets(counts: dict[str, int], name: str, unit: int = 1000) -> tuple[list[tuple[str, float]], float]:
    """Prometheus' cumulative buckets, and the sum: in seconds, or with a unit of 1 in tokens."""
    found, so_far = [], 0
    for number, bound in enumerate(BOUNDS_MS, 1):
        so_far += counts.get(f"{name}:{number}", 0)
        found.append((str(bound / unit), float(so_far)))
    so_far += counts.get(f"{name}:{len(BOUNDS_MS) + 1}", 0)
    return [*found, ("+Inf", float(so_far))], counts.get(f"{name}:sum", 0) / (1000 * unit)


def total(workers: Sequence[dict[str, str]], queue: str, field: str) -> float:
    return sum(float(worker.get(field, 0)) for worker in workers if worker.get("queue") == queue)


def cache_config(workers: Sequence[dict[str, str]]) -> Metric:
    """By vLLM's labels, each configuration of a model's workers once."""
    labels = ("model_name", "block_size", "num_gpu_blocks", "cache_dtype")
    family = GaugeMetricFamily("omni:cache_config_info", "The workers' KV caches; the value is 1.", labels=labels)
    fields = ("queue", "kv_block_size", "kv_blocks_total", "kv_dtype")
    for found in sorted({tuple(worker.get(field, "") for field in fields) for worker in workers}):
        if found[1] not in ("", "0"):  # else there is no KV cache here
            family.add_metric(found, 1)
    return family


def http_requests(store: Store) -> Metric:
    family = CounterMetricFamily(
        "omni:http_requests", "HTTP answers by method, route and status.", labels=["method", "route", "status"]
    )
    for field, number in read(store.redis, SERVICE).items():
        family.add_metric(field.partition("|")[2].split(" "), number)
    return family


def key_usage(store: Store, names: Mapping[str, str]) -> Iterator[Metric]:
    """By the names of the keys that exist; what others used is summed up as `revoked`."""
    tokens = CounterMetricFamily("omni:key_tokens", "Tokens of ended requests by key.", labels=["key", "kind"])
    seconds = CounterMetricFamily("omni:key_gpu_seconds", "Device time of ended requests by key.", labels=["key"])
    used: Counter[tuple[str, str]] = Counter()
    for field, number in store.redis.hgetall(keys.KEY_USAGE).items():
        owner, _, kind = field.decode().partition("|")
        used[names.get(owner, "revoked"), kind] += int(number)
    for (name, kind), number in sorted(used.items()):
        if kind == "gpu_us":
            seconds.add_metric([name], number / 1e6)
        else:
            tokens.add_metric([name, kind], number)
    yield tokens
    yield seconds


def stored_counts(stored: Mapping[str, Any]) -> Iterator[Metric]:
    """None while the store is away: what it last said may be wrong by now."""
    for name, label, text, values in () if stored["is_store_away"] else STORED:
        family = GaugeMetricFamily(f"omni:{name}", text, labels=[label])
        for value in values:
            family.add_metric([value], stored[name].get(value, 0))
        yield family


def metric_routes(service: Service) -> Blueprint:
    routes = Blueprint("metrics", __name__)
    counts = StoredCounts(service)

    @routes.get("/metrics")
    def metrics() -> Response:
        service.keys.admin(request)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Counts(service, counts.newest()))
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return routes
