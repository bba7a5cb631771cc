"""The size of an engine's KV cache, and what it is used for."""

import logging

import torch

from worker.drafting.drafter import Drafter
from worker.engine.interface import KVDemand
from worker.engine.scheduler import Scheduler
from worker.runners.limits import Limits

logger = logging.getLogger("omni.worker")


class KVSizing:
    """Between steps."""

    def __init__(self, scheduler: Scheduler, limits: Limits, drafter: Drafter) -> None:
        self._scheduler = scheduler
        self._limits = limits
        self._drafter = drafter
        self._num_preemptions = 0  # until the last take_demand()

    @property
    def num_bytes(self) -> int:
        """Memory that the KV cache may take."""
        return self._limits.kv_bytes(self._scheduler.kv_cache.pool.num_blocks)

    def resize(self, num_bytes: int) -> int:
        """See AnyEngine.resize_kv(). A sequence of the longest length always fits; some caches' size is fixed."""
        scheduler, limits, cache = self._scheduler, self._limits, self._scheduler.kv_cache
        if not cache.is_elastic:
            return self.num_bytes
        wanted = (num_bytes - limits.state_bytes) // max(1, limits.bytes_per_block)
        num_blocks = max(limits.least_blocks, min(wanted, cache.capacity))
        while cache.pool.num_used > num_blocks:
            scheduler.preempt_one()
        if num_blocks != cache.pool.num_blocks:
            try:
                self._drafter.resize(num_blocks, cache.resize(num_blocks, scheduler.running))
            except torch.OutOfMemoryError as reason:
                logger.warning("a KV cache stays as it is: %s", reason)
        return self.num_bytes

    def take_demand(self) -> KVDemand:
        """See AnyEngine.take_kv_demand()."""
        limits, scheduler, cache = self._limits, self._scheduler, self._scheduler.kv_cache
        num_preemptions = scheduler.num_preemptions - self._num_preemptions
        self._num_preemptions = scheduler.num_preemptions
        return KVDemand(
            least_bytes=limits.kv_bytes(limits.least_blocks) if cache.is_elastic else self.num_bytes,
            most_bytes=limits.kv_bytes(cache.capacity),
            peak_bytes=limits.kv_bytes(cache.pool.take_peak()),
            num_preemptions=num_preemptions,
        )
