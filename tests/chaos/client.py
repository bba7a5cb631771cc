"""Clients that stream, resume, poll, cancel and disconnect, and record every frame in a history."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

RETRY_S = 0.1


@dataclass
class Seen:
    """One received frame: its number, text and finish reason."""

    number: int
    text: str
    finish_reason: str | None
    at: float


@dataclass
class History:
    """Everything that one client received of one job."""

    seed: int
    num_tokens: int
    kind: str
    id: str = ""
    frames: list[Seen] = field(default_factory=list)
    usage: dict[str, Any] | None = None
    error: str | None = None
    is_done: bool = False  # [DONE] came
    body: dict[str, Any] | None = None  # the stored completion, where the client fetched one
    is_cancelled: bool = False  # by the client
    is_left: bool = False  # the client closed its connection for good
    num_resumes: int = 0
    num_refused: int = 0
    complaints: list[str] = field(default_factory=list)

    @property
    def last(self) -> int:
        return self.frames[-1].number if self.frames else 0

    @property
    def text(self) -> str:
        return "".join(frame.text for frame in self.frames)


class Response:
    """Status and headers, then the body as it arrives, with chunked encoding or a Content-Length."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}

    async def read_head(self) -> None:
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(first.split()[1])
        self.headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
        }

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises ConnectionError when the body ends before its end."""
        if "chunked" in self.headers.get("transfer-encoding", ""):
            while True:
                line = await self.reader.readline()
                if not line.endswith(b"\n"):
                    raise ConnectionResetError
                size = int(line, 16)
                data = await self.reader.readexactly(size + 2)
                if size == 0:
                    return
                yield data[:-2]
        else:
            yield await self.reader.readexactly(int(self.headers.get("content-length", 0)))

    async def json(self) -> dict[str, Any]:
        body = b"".join([piece async for piece in self.pieces()])
        return dict(json.loads(body)) if body else {}

    def close(self) -> None:
        self.writer.transport.abort()


BROKEN = (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, EOFError, ValueError, IndexError)


class Api:
    """Requests to one address, each on a connection of its own."""

    def __init__(self, port: int, key: str = "sk-chaos") -> None:
        self.port = port
        self.key = key

    async def open(
        self, method: str, path: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None
    ) -> Response:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 20)
        data = json.dumps(body).encode() if body is not None else b""
        lines = {
            "Host": "127.0.0.1",
            "Authorization": f"Bearer {self.key}",
            "Content-Length": str(len(data)),
            "Connection": "close",
        }
        if body is not None:
            lines["Content-Type"] = "application/json"
        lines |= headers or {}
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        response = Response(reader, writer)
        try:
            writer.write(head.encode() + b"\r\n" + data)
            await asyncio.wait_for(response.read_head(), 30)
        except BaseException:
            response.close()
            raise
        return response

    async def ask(self, method: str, path: str, body: Any = None, headers: Any = None) -> tuple[int, dict[str, Any]]:
        """A short request. Raises what BROKEN holds."""
        response = await self.open(method, path, body, headers)
        try:
            return response.status, await asyncio.wait_for(response.json(), 60)
        finally:
            response.close()


def chat(seed: int, num_tokens: int, **fields: Any) -> dict[str, Any]:
    """A request whose answer the checker can compute."""
    return {
        "model": "fake",
        "messages": [{"role": "user", "content": "Hello"}],
        "seed": seed,
        "max_tokens": num_tokens,
        "stream_options": {"include_usage": True, "include_event_ids": True},
        **fields,
    }


class Client:
    """One caller. `run` returns when its job has ended or its reading has, whatever broke in between."""

    def __init__(self, api: Api, history: History, *, drop_after: int = 0, body: dict[str, Any] | None = None) -> None:
        self.api = api
        self.history = history
        self.drop_after = drop_after  # frames after which the connection is dropped once, to be resumed
        self.body = body or chat(history.seed, history.num_tokens)

    async def submit(self, **fields: Any) -> Response:
        """POST until the job is accepted. The Idempotency-Key makes a repeated POST the same job."""
        headers = {"Idempotency-Key": f"key-{self.history.seed}"}
        while True:
            try:
                response = await self.api.open("POST", "/v1/chat/completions", self.body | fields, headers)
                if response.status in (200, 202):
                    self.history.id = response.headers.get("omni-job-id", "")
                    return response
                self.history.num_refused += 1
                body = await response.json()
                response.close()
                if response.status not in (429, 503):
                    self.complain(f"POST answered {response.status}: {body}")
            except BROKEN:
                pass
            await asyncio.sleep(RETRY_S)

    def complain(self, sentence: str) -> None:
        self.history.complaints.append(sentence[:300])
        if len(self.history.complaints) > 2:
            raise AssertionError(sentence)

    async def stream(self, **fields: Any) -> None:
        """Read to the end; when the connection breaks, resume with GET from the last number."""
        history = self.history
        response: Response | None = await self.submit(stream=True, **fields)
        while response is not None:
            try:
                await self.read(response)
            except BROKEN:
                pass
            finally:
                response.close()
            if history.is_done or history.is_left:
                return
            history.num_resumes += 1
            response = await self.resume()

    async def resume(self) -> Response | None:
        """None when the log is shorter than the history, which ends it."""
        path = f"/v1/chat/completions/{self.history.id}?stream=true&starting_after={self.history.last}"
        while True:
            try:
                response = await self.api.open("GET", path)
                if response.status == 200:
                    return response
                body = await response.json()
                response.close()
                if body["error"]["code"] == "stream_rewound":
                    self.history.error, self.history.is_done = "stream_rewound", True
                    return None
                if response.status not in (429, 503):
                    self.complain(f"GET answered {response.status}: {body}")
            except BROKEN:
                pass
            await asyncio.sleep(RETRY_S)

    async def read(self, response: Response) -> None:
        rest = b""
        async for piece in response.pieces():
            *frames, rest = (rest + piece).split(b"\n\n")
            for frame in frames:
                self.take(frame)
            if self.drop_after and len(self.history.frames) >= self.drop_after:
                self.drop_after = 0
                raise ConnectionResetError
            if self.history.is_left:
                return

    def take(self, frame: bytes) -> None:
        number, data = 0, None
        for line in frame.split(b"\n"):
            if line.startswith(b"id: "):
                number = int(line[4:])
            elif line.startswith(b"data: "):
                data = line[6:]
        if data is None:
            return
        history = self.history
        if history.is_done:
            history.complaints.append("a frame after the end")
        if data == b"[DONE]":
            history.is_done = True
            return
        chunk = json.loads(data)
        if "error" in chunk:
            if history.error is not None:
                history.complaints.append("two errors")
            history.error = str(chunk["error"]["code"])
            return
        if chunk.get("usage"):
            if history.usage is not None:
                history.complaints.append("usage came twice")
            history.usage = chunk["usage"]
        for choice in chunk["choices"]:
            text = choice["delta"].get("content") or ""
            history.frames.append(Seen(number, text, choice["finish_reason"], time.monotonic()))
        if not chunk["choices"]:
            history.frames.append(Seen(number, "", None, time.monotonic()))

    async def poll(self) -> None:
        """Submit a background job, poll it, and fetch the stored answer."""
        while not self.history.id:
            response = await self.submit(background=True)
            try:
                self.history.id = (await response.json())["id"]
            except BROKEN:
                pass
            finally:
                response.close()
        await self.fetch()

    async def fetch(self) -> None:
        while True:
            try:
                status, body = await self.api.ask("GET", f"/v1/chat/completions/{self.history.id}")
                if status == 200:
                    self.history.body = body
                    return
                if status not in (202, 503, 429):
                    self.history.error = str(body["error"]["code"])
                    return
            except BROKEN:
                pass
            await asyncio.sleep(0.2)

    async def cancel(self, after: int) -> None:
        """Stream, and cancel by another request after `after` frames."""
        reading = asyncio.create_task(self.stream(background=True))
        while not reading.done() and len(self.history.frames) < after:
            await asyncio.sleep(0.02)
        self.history.is_cancelled = True
        while not reading.done():
            try:
                await self.api.ask("DELETE", f"/v1/jobs/{self.history.id}")
                break
            except BROKEN:
                await asyncio.sleep(RETRY_S)
        await reading

    async def leave(self, after: int) -> None:
        """Stream in the foreground and disconnect."""
        response = await self.submit(stream=True)
        try:
            async for piece in response.pieces():
                for frame in piece.split(b"\n\n"):
                    self.take(frame)
                if len(self.history.frames) >= after:
                    break
        except BROKEN:
            pass
        self.history.is_left = True
        response.close()
