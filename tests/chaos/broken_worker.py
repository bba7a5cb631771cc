"""A real worker in which one mechanism is broken (tests/chaos/mutations.py), or one model never finds memory."""

import os
import sys
from pathlib import Path
from typing import Any

from tests.chaos.mutations import break_worker

TOO_MUCH = 2**50  # bytes: more than a process can address


def refuse_memory_to(name: str) -> None:
    """Loading the model of this folder asks for memory that no machine has."""
    import torch

    from worker.models import loader

    real = loader.load

    def load(model_path: str, *rest: Any, **options: Any) -> Any:
        if Path(model_path).name == name:
            torch.empty(TOO_MUCH, dtype=torch.uint8)
        return real(model_path, *rest, **options)

    loader.load = load


def main() -> int:
    break_worker()
    if name := os.environ.get("CHAOS_NO_MEMORY_FOR"):
        refuse_memory_to(name)
    from worker.main import main as worker_main

    return worker_main()


if __name__ == "__main__":
    sys.exit(main())
