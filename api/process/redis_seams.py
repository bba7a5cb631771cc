"""The private parts of redis-py that the API uses. Re-check them when redis-py or hiredis is upgraded.

- `_reader` and `_sock` of redis-py's parser, which GreenParser reads. Check: the connection pool still calls
  `can_read()` before each command, and the parser that hiredis brings is still `DefaultParser`.

tests/test_seams.py touches each entry.
"""

import select

from redis.connection import DefaultParser

from api.process.kernel_poll import has_events


class GreenParser(DefaultParser):  # type: ignore[misc]
    """redis-py's parser, for gevent. Given to connections by redis-py's option `parser_class`.

    Before each command the connection pool checks a connection for unread data. redis-py's own check goes through
    gevent's poll, which lets all other greenlets run: of 64 simultaneous requests none was queued before the last one
    was. This parser checks with the kernel first.
    """

    def can_read(self, timeout: float = 0) -> bool:
        """True if there is a reply to read. Raises redis.ConnectionError for a connection that was closed."""
        is_quiet = timeout == 0 and self._reader and not self._reader.has_data() and self._sock is not None
        if is_quiet and not has_pending(self._sock) and not has_events(self._sock.fileno(), select.POLLIN):
            return False
        return bool(super().can_read(timeout))


def has_pending(sock: object) -> bool:
    """True if a TLS socket holds decrypted bytes, which the kernel does not know of."""
    pending = getattr(sock, "pending", None)
    return pending is not None and pending() > 0
