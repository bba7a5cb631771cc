"""A proxy between an agent and the service: it records what both said, and forces one tool call where a test asks.

Every request goes on byte for byte, and every answer comes back as it streams. The one exception: while `forced` is
set, the next request that offers its tool gets a `tool_choice` of that tool and a strict schema of the wanted
arguments. The model then writes the call itself, through the service's grammar.
"""

import asyncio
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ForcedCall:
    """The model must call a tool that the agent offers, with arguments of these schemas."""

    tool: str
    arguments: Mapping[str, Schema]

    def change(self, request: dict[str, Any]) -> bool:
        """Changes a request that offers the tool. False: it does not."""
        for tool in request.get("tools") or ():
            function = tool.get("function", tool)  # Chat Completions nests it
            if function.get("name") == self.tool:
                key = "input_schema" if "input_schema" in function else "parameters"
                function |= {key: closed(self.arguments), "strict": True}
                request["tool_choice"] = self.choice(tool)
                return True
        return False

    def choice(self, tool: Mapping[str, Any]) -> dict[str, Any]:
        """`tool_choice` in the dialect in which the tool is written."""
        if "input_schema" in tool:
            return {"type": "tool", "name": self.tool}
        if "function" in tool:
            return {"type": "function", "function": {"name": self.tool}}
        return {"type": "function", "name": self.tool}


@dataclass(frozen=True, slots=True)
class ForcedInput:
    """The model must call a custom tool of the agent, whose input is this text. Responses only."""

    tool: str
    text: str

    def change(self, request: dict[str, Any]) -> bool:
        """Changes a request that offers the tool. False: it does not."""
        for tool in request.get("tools") or ():
            if tool.get("type") == "custom" and tool["name"] == self.tool:
                tool["format"] = {"type": "grammar", "syntax": "regex", "definition": re.escape(self.text)}
                request["tool_choice"] = {"type": "custom", "name": self.tool}
                return True
        return False


def closed(properties: Mapping[str, Schema]) -> dict[str, Any]:
    """The schema of an object with exactly these properties."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


@dataclass(frozen=True, slots=True)
class ForcedFields:
    """Fields for a Chat Completions request of an agent that works without tools."""

    fields: Mapping[str, Any]

    def change(self, request: dict[str, Any]) -> bool:
        request |= self.fields
        return True


Forced = ForcedCall | ForcedInput | ForcedFields


@dataclass(slots=True)
class Exchange:
    """One request of the agent, and what the service answered so far."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    is_forced: bool = False
    answer: bytearray = field(default_factory=bytearray)  # with its head

    @property
    def status(self) -> int:
        words = bytes(self.answer[:64]).split()
        return int(words[1]) if len(words) > 1 else 0

    @property
    def text(self) -> str:
        """The answer's content, of a stream or of one JSON body, in any of the three dialects."""
        _, _, body = bytes(self.answer).partition(b"\r\n\r\n")
        return "".join(texts_of(body.decode(errors="replace")))


def texts_of(body: str) -> Iterator[str]:
    for line in body.splitlines():
        if not line.startswith("data: {"):
            continue
        event = json.loads(line[6:])
        if event.get("type") == "response.output_text.delta":
            yield event["delta"]
        elif event.get("type") == "content_block_delta":
            yield event["delta"].get("text", "")
        for choice in event.get("choices") or ():
            yield (choice.get("delta") or {}).get("content") or ""


class Shim:
    """The proxy, in a thread of its own. `url` is the service as the agent sees it."""

    def __init__(self, service_url: str, log: Path | None = None) -> None:
        self.service = urlsplit(service_url)
        self.log = log
        self.exchanges: list[Exchange] = []
        self.foreign_hosts: list[str] = []  # what the agent asked of the network beside the service
        self.forced: Forced | None = None
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(asyncio.start_server(self.serve, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request; the connection ends with its answer."""
        with suppress(OSError, asyncio.IncompleteReadError):
            exchange = await read_request(reader)
            if exchange.method == "CONNECT" or not exchange.path.startswith("/"):
                self.foreign_hosts.append(exchange.path)
                writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            else:
                await self.pass_on(exchange, reader, writer)
        with suppress(OSError):
            writer.close()

    async def pass_on(self, exchange: Exchange, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.exchanges.append(exchange)
        number = len(self.exchanges)
        self.write_log(number, "request.json", exchange.body)
        body = self.body_for(exchange)
        up_reader, up_writer = await asyncio.open_connection(self.service.hostname, self.service.port)
        up_writer.write(head_of(exchange, len(body)) + body)
        pump = asyncio.ensure_future(copy(up_reader, writer, exchange.answer))
        leaving = asyncio.ensure_future(reader.read(1))  # b"" when the agent hangs up
        await asyncio.wait({pump, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (pump, leaving):
            task.cancel()
        up_writer.close()
        self.write_log(number, "answer.txt", bytes(exchange.answer))
        described = {"method": exchange.method, "path": exchange.path, "headers": exchange.headers}
        self.write_log(number, "head.json", json.dumps(described, indent=1).encode())

    def body_for(self, exchange: Exchange) -> bytes:
        """The body to send: another one only where the test forces something, and then once."""
        if self.forced is not None and exchange.body:
            request = json.loads(exchange.body)
            if self.forced.change(request):
                self.forced, exchange.is_forced = None, True
                return json.dumps(request).encode()
        return exchange.body

    def write_log(self, number: int, name: str, content: bytes) -> None:
        if self.log is not None:
            self.log.mkdir(parents=True, exist_ok=True)
            (self.log / f"{number:03}-{name}").write_bytes(content)


async def read_request(reader: asyncio.StreamReader) -> Exchange:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = bytearray()
    if "chunked" in headers.get("transfer-encoding", ""):
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    elif length := int(headers.get("content-length", 0)):
        body += await reader.readexactly(length)
    return Exchange(method, path, headers, bytes(body))


def head_of(exchange: Exchange, length: int) -> bytes:
    kept = {
        name: value
        for name, value in exchange.headers.items()
        if name not in ("connection", "content-length", "transfer-encoding", "expect")
    }
    lines = [f"{name}: {value}" for name, value in {**kept, "content-length": length, "connection": "close"}.items()]
    return "\r\n".join([f"{exchange.method} {exchange.path} HTTP/1.1", *lines, "", ""]).encode("latin-1")


async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter, record: bytearray) -> None:
    while piece := await source.read(65536):
        record += piece
        target.write(piece)
        await target.drain()
