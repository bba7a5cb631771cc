"""What the worker asks of whatever generates: our own engine, or one behind HTTP."""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from common.wire import Event, GenerationRequest, LoggedChoice, ModelCard


class Stats(Protocol):
    """A look at an engine between two steps."""

    def as_dict(self) -> dict[str, int | float]: ...


class AnyEngine(Protocol):
    """One thread calls it, but for interrupt(), state and stats()."""

    card: ModelCard

    @property
    def device(self) -> Any: ...

    @property
    def state(self) -> str:
        """`ready`, or `away`: nothing can be generated now."""

    @property
    def has_work(self) -> bool: ...

    def has_room(self, num_prompt_tokens: int, n: int, max_tokens: int = 1, without: Collection[str] = ()) -> bool:
        """Whether a request of this size would start to run at once if these others (request ids) were not there."""

    def has_ample_room(self) -> bool:
        """Whether a request of any length would start to run at once."""

    def add(
        self, request: GenerationRequest, logged: Mapping[int, LoggedChoice] = ..., *, is_suspect: bool = ...
    ) -> None:
        """Take a request in. `logged`: what was shown of it already; a suspect may be what killed a worker."""

    def step(self) -> list[tuple[str, Event]]:
        """Generate; returns (request id, event) in order. Never raises for what a request provokes."""

    def interrupt(self) -> None:
        """From any thread: a step that only waits ends now."""

    def cancel(self, request_id: str) -> None:
        """Forget a request. Nothing more is said about it."""

    def clear_suspicion(self, request_id: str) -> None:
        """The request has shown that it does no harm."""

    def stats(self) -> Stats: ...

    def warm_up(self, on_progress: Callable[[str, float], None]) -> None:
        """Do once what the first caller should not wait for. Raises ValueError when nothing can be generated."""
