"""The requests inside an engine: own state each, events due without a step, suspects, token counts."""

from typing import Generic, TypeVar

from common.wire import Event, Failed, Finished, GenerationRequest

State = TypeVar("State")  # an engine's own record of a request


class Requests(Generic[State]):
    """The bookkeeping that every engine needs. One thread changes it."""

    def __init__(self) -> None:
        self.suspects: set[str] = set()  # ids of requests that may be what killed a worker
        self.num_prompt_tokens = 0  # of all requests so far
        self.num_generated_tokens = 0
        self._states: dict[str, State] = {}
        self._settled: list[tuple[str, Event]] = []
        self.seconds: dict[str, float] = {}  # of the device, by request, which may have ended; until they are taken

    @property
    def has_work(self) -> bool:
        return bool(self._states or self._settled)

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._states

    def __getitem__(self, request_id: str) -> State:
        return self._states[request_id]

    def items(self) -> list[tuple[str, State]]:
        return list(self._states.items())

    def get(self, request_id: str) -> State | None:
        return self._states.get(request_id)

    def admit(self, request: GenerationRequest, state: State, *, is_suspect: bool) -> None:
        """Keep a request's state until it is removed."""
        self._states[request.id] = state
        self.num_prompt_tokens += len(request.prompt_ids)
        if is_suspect:
            self.suspects.add(request.id)

    def settle(self, request_id: str, event: Finished | Failed) -> None:
        """The request ends without a step: it was refused, or its log is complete."""
        self._settled.append((request_id, event))

    def take_settled(self) -> list[tuple[str, Event]]:
        """The events of settled requests, once."""
        events, self._settled = self._settled, []
        return events

    def take_gpu_us(self) -> dict[str, int]:
        """Microseconds of the device by request, once."""
        taken, self.seconds = self.seconds, {}
        return {request_id: round(seconds * 1e6) for request_id, seconds in taken.items()}

    def remove(self, request_id: str) -> State | None:
        """Drop a request with all that is kept of it; returns its state, or None if it has none."""
        self.suspects.discard(request_id)
        self._settled = [(settled_id, event) for settled_id, event in self._settled if settled_id != request_id]
        return self._states.pop(request_id, None)
