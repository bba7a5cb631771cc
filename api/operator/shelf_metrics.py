"""Metrics of which models are loaded."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from prometheus_client.core import GaugeMetricFamily, Metric

from common.redis.served.shelf import ShelfEntry, ShelfReport

Reading = Callable[[ShelfEntry], float]


OF_MODELS: Mapping[str, tuple[str, Reading]] = MappingProxyType(
    {
        "model_loaded": ("1 while the model is loaded, else 0.", lambda entry: entry.status == "loaded"),
        "model_loaded_seconds": (
            "Seconds since the model of a table was loaded; 0 while it is not.",
            lambda entry: max(0.0, time.time() - entry.loaded_at) if entry.loaded_at else 0.0,
        ),
        "model_memory_bytes": (
            "Memory of the device that a loaded model of a table takes: weights and KV cache.",
            lambda entry: entry.memory_bytes,
        ),
        "swapped_out_jobs": (
            "Jobs whose answer has begun and whose model left the device.",
            lambda entry: entry.num_swapped_out,
        ),
    }
)
OF_SHELVES: Mapping[str, tuple[str, Callable[[ShelfReport], float]]] = MappingProxyType(
    {
        "shelf_capacity_bytes": ("Memory of the devices for models of tables.", lambda report: report.capacity_bytes),
        "shelf_used_bytes": ("Memory that loaded models of tables take.", lambda report: report.used_bytes),
        "warm_bytes": ("Host memory with weights of models that are not loaded.", lambda report: report.warm_bytes),
    }
)


def shelf_metrics(reports: Sequence[ShelfReport], entries: Mapping[str, ShelfEntry]) -> Iterator[Metric]:
    for name, (text, of_entry) in OF_MODELS.items():
        family = GaugeMetricFamily(f"omni:{name}", text, labels=["model_name"])
        for queue, entry in entries.items():
            family.add_metric([queue], of_entry(entry))
        yield family
    for name, (text, of_report) in OF_SHELVES.items():
        yield GaugeMetricFamily(f"omni:{name}", text, value=sum(map(of_report, reports)))
