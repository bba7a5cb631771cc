"""api.server where each address may open four connections, and only loopback is not counted: for test_connections.py.

python -m tests.api.gate.server_with_few_connections
"""

import sys
from typing import Any

import api.server as server
from api.gate import gunicorn_seams
from api.gate.connections import network_of as real_network_of


def network_of(address: Any) -> str:
    """A test has private addresses only: count them."""
    is_private = isinstance(address, tuple) and not str(address[0]).startswith("127.")
    return str(address[0]) if is_private else real_network_of(address)


gunicorn_seams.MAX_PER_NETWORK = 4
gunicorn_seams.network_of = network_of

if __name__ == "__main__":
    sys.exit(server.main())
