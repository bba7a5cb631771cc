"""A listening socket that outlives the processes that accept from it.

The supervisor holds the socket and passes it to its children, so connections in the accept queue wait for the next
process. Closing the port instead would reset them.
"""

import errno
import socket
import time
from dataclasses import dataclass

BACKLOG = 4096
RETRY_S = 0.2
PATIENCE_S = 5.0  # a service that is stopping holds its port for this long at most


class AddressTaken(Exception):
    """One sentence for the operator that names the settings."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host and port, and the settings that they come from."""

    host: str
    port: int
    name: str

    @classmethod
    def of_api(cls, host: str, port: int) -> "Address":
        return cls(host, port, f"OMNI_HOST={host}, OMNI_PORT={port}")

    @classmethod
    def of_dashboard(cls, port: int) -> "Address":
        return cls("127.0.0.1", port, f"OMNI_DASHBOARD_PORT={port}")


def listen(address: Address, patience_s: float = PATIENCE_S) -> socket.socket:
    """A bound, inheritable socket. Raises AddressTaken if the address stays in use or cannot be bound."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    deadline = time.monotonic() + patience_s
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address.host, address.port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise AddressTaken(f"{address.name} cannot be used: {error.strerror}.") from error
            time.sleep(RETRY_S)
            continue
        listener.set_inheritable(True)
        return listener
