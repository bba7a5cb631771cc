"""A streamed POST by the standard library, on a connection of its own: `omni bench` needs no package for it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

READ_BYTES = 1 << 16
MAX_HEAD = 1 << 16


class Chunks:
    """Takes HTTP's chunked coding off a body."""

    def __init__(self) -> None:
        self.is_whole = False
        self._rest = b""

    def body_of(self, data: bytes) -> bytes:
        """What the chunks hold that are complete by now. Raises ValueError for what is no chunk."""
        self._rest, body = self._rest + data, b""
        while not self.is_whole:
            line, found, after = self._rest.partition(b"\r\n")
            if not found:
                break
            size = int(line.partition(b";")[0], 16)
            if len(after) < size + 2:  # and its line's end
                break
            body, self._rest = body + after[:size], after[size + 2 :]
            self.is_whole = not size
        return body


class StreamedAnswer:
    """The status, and the body as it arrives."""

    def __init__(self, reader: asyncio.StreamReader, head: bytes) -> None:
        self.status = int(head.split(b" ", 2)[1])
        self._reader = reader
        self._chunks = Chunks() if b"\r\ntransfer-encoding: chunked\r\n" in head.lower() else None

    async def pieces(self) -> AsyncIterator[bytes]:
        """What each read brings. Raises OSError where the body breaks off, if its coding tells."""
        while data := await self._reader.read(READ_BYTES):
            if self._chunks is None:
                yield data
                continue
            if body := self._chunks.body_of(data):
                yield body
            if self._chunks.is_whole:
                return
        if self._chunks is not None:
            raise ConnectionResetError("the connection broke before the end")

    async def text(self) -> str:
        return b"".join([piece async for piece in self.pieces()]).decode(errors="replace")


@asynccontextmanager
async def posting(url: str, headers: Mapping[str, str], body: bytes) -> AsyncIterator[StreamedAnswer]:
    """Raises OSError, EOFError and ValueError for what is no answer of HTTP/1.1."""
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if is_tls else 80)
    reader, writer = await asyncio.open_connection(host, port, ssl=is_tls or None, limit=MAX_HEAD)
    try:
        lines = [f"POST {parts.path} HTTP/1.1", f"Host: {parts.netloc.rpartition('@')[2]}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in {**headers, "Content-Length": str(len(body))}.items()]
        writer.write("".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + body)
        await writer.drain()
        yield StreamedAnswer(reader, await reader.readuntil(b"\r\n\r\n"))
    finally:
        writer.close()
