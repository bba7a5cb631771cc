"""redis-py's parts that are not its public interface; tests/test_seams.py notices when an upgrade changes one.

Connection.send_command, read_response    send a command now, read its reply later, with work in between
ResponseError.status_code                 where redis-py moves an error's code from its text
"of pipeline caused error: "              the text in front of a pipeline's error
"""

from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

IN_PIPELINE = "of pipeline caused error: "


class HeldConnection:
    """One connection of a client's pool, driven by hand. Every method may raise RedisError or OSError."""

    def __init__(self, redis: "Redis") -> None:
        self._pool = redis.connection_pool
        self._connection: Any = self._pool.get_connection()

    def send(self, *command: Any) -> None:
        self._connection.send_command(*command)

    def read(self) -> Any:
        """The reply to the oldest command whose reply was not read."""
        return self._connection.read_response()

    def drop(self) -> None:
        """Close it, with any replies that were not read."""
        self._connection.disconnect()
        self._pool.release(self._connection)


def error_code(error: ResponseError) -> str:
    """The first word of Redis's own error: LOADING, OOM, ..."""
    text = error.status_code or str(error).rpartition(IN_PIPELINE)[2]
    return text.lstrip("-").partition(" ")[0]
