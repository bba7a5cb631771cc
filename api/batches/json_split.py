"""Splits a large JSON object while it arrives: the elements of one list in it, without holding the others.

It finds where values end and leaves it to a JSON parser whether they are well formed.
"""

import re
from collections.abc import Generator

from common.errors import BodyTooLarge, InvalidRequest

BLANKS = re.compile(rb"[ \t\r\n]*")
TEXT = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)  # to the quote that ends it, or as far as the bytes go
MARK = re.compile(rb'["{}\[\]]')
SCALAR = re.compile(rb"[^,\]}\s\"{\[:]*")
OPENING = b"{["
QUOTE = b'"'[0]

Steps = Generator[None, None, None]  # yields when it needs more bytes


class Splitter:
    """Reads values one after the other from bytes that come in blocks. `taken` is the last value that was read.

    A function that is a generator yields when it needs more bytes; feed() goes on with it.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes  # of one value
        self._buffer = bytearray()
        self._at = 0
        self._start = 0  # of the value that is being read
        self.taken = b""

    def add(self, block: bytes) -> None:
        """Raises BodyTooLarge when one value has more than its bytes."""
        del self._buffer[: self._start]
        self._at -= self._start
        self._start = 0
        self._buffer += block
        if len(self._buffer) > self._most_bytes + len(block):
            raise BodyTooLarge(f"One value of the body is larger than {self._most_bytes} bytes.")

    def next_mark(self) -> Generator[None, None, int]:
        """The next byte that is not blank, which is not taken."""
        while True:
            found = BLANKS.match(self._buffer, self._at)
            assert found is not None
            self._at = self._start = found.end()
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            yield

    def expect(self, mark: bytes) -> Generator[None, None, int]:
        """Take the next byte, which must be one of `mark`. Raises InvalidRequest."""
        found = yield from self.next_mark()
        if found not in mark:
            wanted = " or ".join(repr(chr(one)) for one in mark)
            raise InvalidRequest(f"The body is not valid JSON: {wanted} is expected, not {chr(found)!r}.")
        self._at += 1
        self._start = self._at
        return found

    def value(self) -> Steps:
        """Take a whole value. Raises InvalidRequest."""
        first = yield from self.next_mark()
        if first in OPENING:
            yield from self._container()
        elif first == QUOTE:
            self._at += 1
            yield from self._text()
        else:
            yield from self._scalar()
        self.taken = bytes(self._buffer[self._start : self._at])
        self._start = self._at

    def end(self) -> Steps:
        """Only blanks may follow. Never returns: more may come."""
        found = yield from self.next_mark()
        raise InvalidRequest(f"The body is not valid JSON: {chr(found)!r} stands after its end.")

    def _container(self) -> Steps:
        depth = 0
        while True:
            found = MARK.search(self._buffer, self._at)
            if found is None:
                self._at = len(self._buffer)
                yield
                continue
            mark, self._at = self._buffer[found.start()], found.end()
            if mark == QUOTE:
                yield from self._text()
            elif mark in OPENING:
                depth += 1
            else:
                depth -= 1
                if not depth:
                    return

    def _text(self) -> Steps:
        """The rest of a text and its quote."""
        while True:
            found = TEXT.match(self._buffer, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._buffer) and self._buffer[self._at] == QUOTE:
                self._at += 1
                return
            yield  # the bytes end here, or after a backslash

    def _scalar(self) -> Steps:
        while True:
            found = SCALAR.match(self._buffer, self._at)
            assert found is not None
            self._at = found.end()
            if self._at < len(self._buffer):
                if self._at == self._start:
                    raise InvalidRequest(
                        f"The body is not valid JSON: {chr(self._buffer[self._at])!r} begins no value."
                    )
                return
            yield
