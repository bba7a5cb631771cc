"""The keeper's process: python -m common.process.keeper --door-fd N

The door is a socket whose two ends the supervisor holds. A client sends one end of a connection of its own through it,
then requests, one JSON object a packet: {"do": "put", "name": ...} with a memfd, "find", "drop" or "sizes". A memfd is
put when it is complete, so that what a killed client has begun is never found. worker/kept/keep.py is the client.
"""

import argparse
import json
import os
import selectors
import signal
import socket
import sys
from typing import Any

from common.process.keeper.supervised import PACKET_BYTES, allocated_bytes
from common.process.processes import set_process_name


class Keeper:
    """The process's state: memfds by name, and the clients' connections."""

    def __init__(self, door: socket.socket) -> None:
        self._kept: dict[str, int] = {}
        self._selector = selectors.DefaultSelector()
        self._door = door
        self._selector.register(door, selectors.EVENT_READ)

    def run(self) -> None:
        """Serve until the door is closed."""
        while True:
            for key, _ in self._selector.select():
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                if connection is not self._door:
                    self._serve(connection)
                elif not self._let_in():
                    return

    def _let_in(self) -> bool:
        """Take a new client's connection; False where there can be no more."""
        packet, fds, _, _ = socket.recv_fds(self._door, 16, 1)
        for fd in fds:
            self._selector.register(socket.socket(fileno=fd), selectors.EVENT_READ)
        return bool(packet)

    def _serve(self, connection: socket.socket) -> None:
        try:
            packet, fds, _, _ = socket.recv_fds(connection, PACKET_BYTES, 1)
            if not packet:
                raise ConnectionResetError
            answer, fd = self._answer(json.loads(packet), fds)
            socket.send_fds(connection, [json.dumps(answer).encode()], [] if fd is None else [fd])
        except OSError:  # the client has ended
            self._selector.unregister(connection)
            connection.close()

    def _answer(self, request: dict[str, Any], fds: list[int]) -> tuple[object, int | None]:
        name = request.get("name", "")
        match request["do"]:
            case "put":
                self._drop(name)
                (self._kept[name],) = fds
            case "find":
                return {"found": name in self._kept}, self._kept.get(name)
            case "drop":
                self._drop(name)
            case "sizes":
                return {kept: allocated_bytes(fd) for kept, fd in self._kept.items()}, None
        return {}, None

    def _drop(self, name: str) -> None:
        if (fd := self._kept.pop(name, None)) is not None:
            os.close(fd)


def main() -> int:
    parser = argparse.ArgumentParser(prog="common.process.keeper")
    parser.add_argument("--door-fd", type=int, required=True)
    args = parser.parse_args()
    set_process_name("omni-keeper")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the supervisor ends this process
    Keeper(socket.socket(fileno=args.door_fd)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
