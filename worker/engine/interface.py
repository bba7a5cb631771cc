"""The interface between the worker and an engine: our own, an encoder, or a server behind HTTP."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Protocol

from common.errors import InvalidRequest
from common.wire import Event, GenerationRequest, LoggedChoice, ModelCard

NOTHING_LOGGED: Mapping[int, LoggedChoice] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class EngineStats:
    """Gauges and counters of an engine, taken between two steps."""

    num_running: int = 0
    num_waiting: int = 0
    num_places: int = 0  # for sequences that run at once; 0 where no number limits them
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
    kv_block_size: int = 0  # tokens of a block
    kv_dtype: str = ""  # of keys
    drafts: int = 0  # guesses that were verified, of one token or more each
    draft_tokens: int = 0  # guessed and verified
    accepted_tokens: int = 0  # of these, the ones that proved right

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class KVDemand:
    """What an engine uses of its KV cache, by which memory is shared out between engines. All zero: it has none."""

    least_bytes: int = 0  # a sequence of the longest length fits
    most_bytes: int = 0  # more is of no use
    peak_bytes: int = 0  # the most that sequences held at a time since the last call
    num_preemptions: int = 0  # since the last call, because blocks were missing


class WithoutKV:
    """Of an engine without a KV cache in this process, which does not leave a GPU for a while either."""

    kv_bytes = last_step_tokens = mapped_bytes = 0
    sleeping = None

    def resize_kv(self, num_bytes: int) -> int:
        """See AnyEngine."""
        return 0

    def take_kv_demand(self) -> KVDemand:
        """See AnyEngine."""
        return KVDemand()


class AnyAdapters(Protocol):
    """The adapters of an engine, by name. Called between steps."""

    @property
    def revisions(self) -> dict[str, str]:
        """Of the content of each."""

    def requests_of(self, name: str) -> list[str]:
        """The ids of the requests that it computes."""

    def load(self, name: str, path: str) -> str:
        """Returns its revision. Raises InvalidRequest with one sentence."""

    def unload(self, name: str) -> None:
        """Its requests must have been cancelled."""


class NoAdapters:
    """Of an engine that computes without any."""

    @property
    def revisions(self) -> dict[str, str]:
        return {}

    def requests_of(self, name: str) -> list[str]:
        return []

    def load(self, name: str, path: str) -> str:
        raise InvalidRequest(f"The adapter {name!r} cannot be loaded: this engine computes without adapters.")

    def unload(self, name: str) -> None:
        """There is none."""


class AnySleeping(Protocol):
    """How an engine's memory leaves a GPU for a while. Called while the engine has no work."""

    @property
    def warm_bytes(self) -> int:
        """Host memory that its weights take meanwhile; 0: it cannot sleep."""

    @property
    def copy_bytes(self) -> int:
        """Host memory that it takes now: wake() leaves the weights there too, for the next sleep()."""

    def drop_copy(self) -> None:
        """Free this host memory, while it is awake; the next sleep() fills it again."""

    def sleep(self) -> bool:
        """Free the device's memory. False: there is no room in host memory, and it is as it was.

        It gets no work before wake(). Raises RuntimeError: it is to be closed.
        """

    def wake(self, kv_bytes: int | None) -> None:
        """Be there again, with so much memory for keys and values (None: as before), still to be warmed up.

        Raises torch.OutOfMemoryError, and sleeps on then; RuntimeError: it is to be closed.
        """


class NotLoaded(WithoutKV):
    """Stands for the engine of a model that is not loaded: it has no room, so its jobs wait in their queue."""

    state, device, adapters = "ready", "", NoAdapters()
    has_work = paces_flex = False

    def __init__(self, card: ModelCard) -> None:
        self.card = card

    def has_room(self, *args: object, **kwargs: object) -> bool:
        """See AnyEngine."""
        return False

    has_ample_room = has_room

    def add(self, request: GenerationRequest, *args: object, **kwargs: object) -> None:
        """Not called: there is no room."""
        raise InvalidRequest(f"The model {request.model!r} is not loaded.")

    def step(self) -> list[tuple[str, Event]]:
        """See AnyEngine."""
        return []

    def take_gpu_us(self) -> Mapping[str, int]:
        """See AnyEngine."""
        return {}

    def interrupt(self) -> None:
        """There is no step."""

    def cancel(self, request_id: str) -> None:
        """There is no request."""

    clear_suspicion = cancel

    def stats(self) -> EngineStats:
        """See AnyEngine."""
        return EngineStats()

    def warm_up(self, on_progress: Callable[[str, float], None]) -> None:
        """There is nothing to prepare."""

    def close(self) -> None:
        """There is nothing to free."""


class AnyEngine(Protocol):
    """One thread calls it; only interrupt(), state, stats() and has_work may be used from others."""

    card: ModelCard

    @property
    def adapters(self) -> AnyAdapters: ...

    @property
    def device(self) -> Any: ...

    @property
    def state(self) -> str:
        """`ready`, or `away` while nothing can be generated."""

    @property
    def has_work(self) -> bool: ...

    last_step_tokens: int  # that the last step computed: of prompts, of answers, and drafts; 0: none, or not known

    @property
    def sleeping(self) -> AnySleeping | None:
        """None: it cannot sleep."""

    paces_flex: bool  # flex requests give way to others in every step; else they must not run beside others

    def has_room(
        self,
        num_prompt_tokens: int,
        n: int,
        max_tokens: int = 1,
        without: Collection[str] = (),
        *,
        is_flex: bool = False,
    ) -> bool:
        """True if a request of this size would start to run at once, the request ids in `without` left out.

        A flex request leaves a reserve for others.
        """

    def has_ample_room(self, *, is_flex: bool = False) -> bool:
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

    def take_gpu_us(self) -> Mapping[str, int]:
        """Microseconds of the device that each request took since the last call; a step's are shared by its rows."""

    def interrupt(self) -> None:
        """End a step that only waits. May be called from any thread."""

    def cancel(self, request_id: str) -> None:
        """Drop a request; it gets no further events."""

    def clear_suspicion(self, request_id: str) -> None:
        """The request has proved harmless: let others run with it."""

    def stats(self) -> EngineStats: ...

    mapped_bytes: int  # of files that it reads at each step, which the system counts as available memory

    def warm_up(self, on_progress: Callable[[str, float], None]) -> None:
        """Do once what the first caller should not wait for. Raises ValueError or RuntimeError if it fails."""

    @property
    def kv_bytes(self) -> int:
        """Memory that the KV cache may take; 0 where it has none of its own."""

    def resize_kv(self, num_bytes: int) -> int:
        """Give the KV cache so much memory, between steps; returns what it has then, which may be more or less.

        Answers go on. Where fewer blocks remain than are in use, the youngest sequences are preempted.
        """

    def take_kv_demand(self) -> KVDemand:
        """Since the last call."""

    def close(self) -> None:
        """Free all memory and end all threads. Requests get no further events. It may be called again."""
