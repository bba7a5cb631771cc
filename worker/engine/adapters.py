"""The adapters that an engine computes with: read from folders, loaded and unloaded between steps."""

from dataclasses import dataclass

import torch

from common.errors import AdapterUnloaded, InvalidRequest
from worker.device import check_device
from worker.engine.requests import Requests
from worker.models.adapters.folder import Adapter, linear_shapes, read_adapter
from worker.models.adapters.peft_config import AdapterFault, GivenAdapterFault
from worker.models.loader import EngineConfig, LoadedModel
from worker.runners.base import Runner
from worker.runners.choose import adapters_of_runner
from worker.runners.parts.adapters import RunnerAdapters
from worker.runners.probe import attending_part
from worker.state.sequence import RequestState


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    slot: int
    revision: str  # of its content


NONE = LoadedAdapter(0, "")  # of requests that the base computes alone


class EngineAdapters:
    """By name. Make it before the runner, which takes the model apart; then attach() the runner."""

    def __init__(self, loaded: LoadedModel, config: EngineConfig, requests: Requests[RequestState]) -> None:
        """Read the configuration's adapters, before memory is divided. Raises GivenAdapterFault."""
        self._requests = requests
        self._loaded = loaded
        self._is_shared = config.num_ranks > 1
        self._shapes = {} if self._is_shared else linear_shapes(loaded.model, attending_part(loaded.model))
        self._given = {name: (path, self._read_given(name, path)) for name, path in config.adapters}
        self._adapters: dict[str, LoadedAdapter] = {}
        self._parts: RunnerAdapters | None = None

    def attach(self, runner: Runner) -> None:
        """Compute with the configuration's adapters from now on. Raises GivenAdapterFault."""
        self._parts = runner.adapters = adapters_of_runner(self._loaded, runner, self._shapes)
        for name, (path, adapter) in self._given.items():
            try:
                self._put(name, adapter)
            except AdapterFault as fault:
                raise GivenAdapterFault(name, path, fault) from fault
        self._given.clear()

    @property
    def revisions(self) -> dict[str, str]:
        """The loaded adapters, and the revision of each one's content."""
        return {name: adapter.revision for name, adapter in self._adapters.items()}

    def requests_of(self, name: str) -> list[str]:
        """See AnyAdapters."""
        return [request_id for request_id, state in self._requests.items() if state.request.adapter == name]

    @torch.inference_mode()
    def load(self, name: str, path: str) -> str:
        """Returns its revision. Call it between steps. Raises InvalidRequest with one sentence."""
        if name in self._adapters:
            raise InvalidRequest(f"The adapter {name!r} is loaded already.")
        try:
            self._put(name, self._read(path))
        except AdapterFault as fault:
            raise InvalidRequest(f"The adapter {name!r} cannot be loaded: {path} {fault}.") from fault
        except torch.OutOfMemoryError as error:
            raise InvalidRequest(f"The adapter {name!r} does not fit into the GPU's memory.") from error
        return self._adapters[name].revision

    @torch.inference_mode()
    def unload(self, name: str) -> None:
        """Its requests must have been cancelled. Call it between steps."""
        if (adapter := self._adapters.pop(name, None)) is not None and self._parts is not None:
            self._parts.drop(adapter.slot)

    def of_request(self, name: str) -> LoadedAdapter:
        """Raises AdapterUnloaded."""
        if (adapter := self._adapters.get(name)) is None:
            raise AdapterUnloaded(f"The adapter {name!r} was unloaded before this request was finished.")
        return adapter

    def _read_given(self, name: str, path: str) -> Adapter:
        try:
            return self._read(path)
        except AdapterFault as fault:
            raise GivenAdapterFault(name, path, fault) from fault

    def _read(self, path: str) -> Adapter:
        if self._is_shared:
            raise AdapterFault("cannot be served by a model that several GPUs share")
        try:
            return read_adapter(path, self._shapes, self._loaded.dtype, self._loaded.device)
        except (AdapterFault, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a folder may hold anything, and none ends the worker
            fault = AdapterFault(f"cannot be read ({type(error).__name__}: {error})")
        check_device()  # out here, where the error no longer holds tensors
        raise fault

    def _put(self, name: str, adapter: Adapter) -> None:
        assert self._parts is not None
        self._adapters[name] = LoadedAdapter(self._parts.put(adapter.layers), adapter.revision)
