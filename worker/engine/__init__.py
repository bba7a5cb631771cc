"""The engine: requests in, events out, one forward pass per step. As a library: docs/library.md."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from common.wire import Delta, Event, Failed, Finished, GenerationRequest, SamplingParams
    from worker.engine.engine import Engine
    from worker.engine.library import LLM, Generated, GeneratedChoice
    from worker.models.loader import EngineConfig

__all__ = (
    "LLM",
    "Delta",
    "Engine",
    "EngineConfig",
    "Event",
    "Failed",
    "Finished",
    "Generated",
    "GeneratedChoice",
    "GenerationRequest",
    "SamplingParams",
)


def __getattr__(name: str) -> Any:
    """Load torch for those who ask for the engine; worker/engine/interface.py alone does without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("worker.engine.library"), name)
