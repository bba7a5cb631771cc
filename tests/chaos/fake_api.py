"""api.server without the mechanisms that CHAOS_MUTATIONS names; unchanged if it names none.

python -m tests.chaos.fake_api
"""

import sys
from typing import Any

import api.server as server
from tests.chaos.mutations import break_api

real_load = server.Server.load


def load(self: server.Server) -> Any:
    break_api()  # here gevent has patched the standard library
    return real_load(self)


server.Server.load = load  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(server.main())
