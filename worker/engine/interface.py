"""The interface between the worker and an engine: our own, an encoder, or a server behind HTTP."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Protocol

from common.wire import Event, GenerationRequest, LoggedChoice, ModelCard

NOTHING_LOGGED: Mapping[int, LoggedChoice] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Gauges and counters of an engine, taken between two steps."""

    num_running: int = 0
    num_waiting: int = 0
    kv_blocks_used: int = 0
    kv_blocks_total: int = 0
    num_preemptions: int = 0
    prompt_tokens: int = 0  # of all requests so far
    cached_tokens: int = 0  # of these, found in the KV cache
    generated_tokens: int = 0
    last_step_s: float = 0.0
    memory_used_bytes: int = 0  # on the GPU; 0 on a CPU
    num_preempted: int = 0  # waiting sequences that were preempted
    recomputed_tokens: int = 0  # of sequences that continue after a preemption or after another worker
    draft_tokens: int = 0  # guessed and verified
    accepted_tokens: int = 0  # of these, the ones that proved right

    def as_dict(self) -> dict[str, int | float]:
        return asdict(self)


class AnyEngine(Protocol):
    """One thread calls it; only interrupt(), state, stats() and has_work may be used from others."""

    card: ModelCard

    @property
    def device(self) -> Any: ...

    @property
    def state(self) -> str:
        """`ready`, or `away` while nothing can be generated."""

    @property
    def has_work(self) -> bool: ...

    def has_room(self, num_prompt_tokens: int, n: int, max_tokens: int = 1, without: Collection[str] = ()) -> bool:
        """True if a request of this size would start to run at once, the request ids in `without` left out."""

    def has_ample_room(self) -> bool:
        """True if a request of any length would start to run at once."""

    def add(
        self,
        request: GenerationRequest,
        logged: Mapping[int, LoggedChoice] = NOTHING_LOGGED,
        *,
        is_suspect: bool = False,
    ) -> None:
        """Admit a request. `logged`: the part of its answer that the log holds; suspects run apart from others."""

    def step(self) -> list[tuple[str, Event]]:
        """Generate; returns (request id, event) in order. Never raises for what a request provokes."""

    def interrupt(self) -> None:
        """End a step that only waits. May be called from any thread."""

    def cancel(self, request_id: str) -> None:
        """Drop a request; it gets no further events."""

    def clear_suspicion(self, request_id: str) -> None:
        """The request has proved harmless: let others run with it."""

    def stats(self) -> EngineStats: ...

    def warm_up(self, on_progress: Callable[[str, float], None]) -> None:
        """Do once what the first caller should not wait for. Raises ValueError when nothing can be generated."""
