"""A listening socket that outlives the processes which accept from it.

Its supervisor holds it and hands it down, so a connection that nobody has taken yet waits for the next process; closing
a port instead would reset what stands in its accept queue.
"""

import errno
import socket
import time

BACKLOG = 4096
RETRY_S = 0.2


class AddressTaken(Exception):
    """One sentence that names the settings."""


def listen(host: str, port: int, patience_s: float = 5.0) -> socket.socket:
    """A socket that children inherit. Raises AddressTaken when it stays taken, or cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + patience_s
    while True:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                raise AddressTaken(f"OMNI_HOST={host}, OMNI_PORT={port} cannot be used: {error.strerror}.") from error
            time.sleep(RETRY_S)
            continue
        listener.set_inheritable(True)
        return listener
