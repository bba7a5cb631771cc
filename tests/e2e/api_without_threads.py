"""api.server with large work done in the event loop: the control of test_standstill.py.

python -m tests.e2e.api_without_threads
"""

import sys
from collections.abc import Callable
from typing import Any

import api.server as server

real_load = server.Server.load


def at_once(threads: object, work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    return work(*args)


def load(self: server.Server) -> Any:
    from api.process import offload

    offload._finished = at_once
    return real_load(self)


server.Server.load = load  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(server.main())
