"""The load generator's HTTP: chunked bodies in pieces of any size, and answers that break off."""

import asyncio

import pytest

from bench.load import Shot, Target, shoot
from bench.streamed import Chunks

FRAMES = (
    b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n',
    (b'data: {"choices": [], "usage": {"completion_tokens": 1}}\n\ndata: [DONE]\n\n'),
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = b"".join(b"%x;a=b\r\n%b\r\n" % (len(frame), frame) for frame in FRAMES)
LAST = b"0\r\n\r\n"


@pytest.mark.parametrize("size", range(1, len(CHUNKED + LAST)))
def test_a_chunked_body_is_whole_however_it_arrives(size: int) -> None:
    chunks, sent = Chunks(), CHUNKED + LAST
    body = b"".join(chunks.body_of(sent[at : at + size]) for at in range(0, len(sent), size))
    assert body == b"".join(FRAMES) and chunks.is_whole


@pytest.mark.parametrize(
    ("answer", "num_tokens", "error"),
    [
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED + LAST, 1, ""),
        (HEAD + b"\r\n" + b"".join(FRAMES), 1, ""),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED, 1, "ConnectionResetError the connection broke before"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nno chunk\r\n", 0, "ValueError"),
        (HEAD + b"\r\n", 0, "no text"),
        (b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nfull", 0, "429 full"),
        (b"", 0, "IncompleteReadError"),
    ],
    ids=["chunked", "to the end", "broken", "no chunks", "empty", "refused", "closed"],
)
def test_an_answer_is_counted_whole_or_as_an_error(answer: bytes, num_tokens: int, error: str) -> None:
    shot = asyncio.run(shot_at(answer))
    assert shot.error.startswith(error) and bool(shot.error) == bool(error)
    assert shot.num_tokens == num_tokens


async def shot_at(answer: bytes) -> Shot:
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        asked.append(head + await reader.readexactly(length))
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        shot = await shoot(Target("a", f"http://127.0.0.1:{port}/v1", "m", "sk-key"), "Hello", 4)
    assert asked[0].startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % port)
    assert b"Authorization: Bearer sk-key\r\n" in asked[0] and b'"max_tokens":4' in asked[0]
    return shot
