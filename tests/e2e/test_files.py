"""Large uploads through gunicorn: bounded memory, other requests in between, and nothing left of what was cut off."""

import json
import os
import re
import socket
import threading
import time
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.service import RunningService

UPLOAD = 200 * 10**6
MOST_GROWTH = 48 * 2**20
MOST_PAUSE_S = 0.5  # on a machine with other work
LINE = b'{"custom_id": "%d", "method": "POST", "url": "/v1/completions", "body": {"prompt": "' + b"x" * 900 + b'"}}\n'


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with RunningService(tmp_path_factory.mktemp("files")) as running:
        running.start("redis", "api")
        while True:
            try:
                if running.http().get("/v1/files").status_code == 200:
                    break
            except httpx2.HTTPError:
                time.sleep(0.05)
        yield running


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A file for a batch of 200 MB."""
    path = tmp_path_factory.mktemp("large") / "in.jsonl"
    with path.open("wb") as file:
        for number in range(UPLOAD // len(LINE)):
            file.write(LINE % number)
    yield path
    path.unlink()


class Watch:
    """The most memory of the API's processes, and the longest that another request waited, while something runs."""

    def __init__(self, api: RunningService) -> None:
        self.api = api
        self.processes = [
            process
            for process in psutil.Process(api.processes["api"].pid).children(recursive=True)
            if not process.children()
        ]
        self.stop = threading.Event()
        self.most, self.longest_s = 0, 0.0
        self.threads = [threading.Thread(target=self.weigh), threading.Thread(target=self.ask)]

    def __enter__(self) -> "Watch":
        self.before = self.weight()
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def weight(self) -> int:
        return sum(process.memory_info().rss for process in self.processes)

    def weigh(self) -> None:
        while not self.stop.wait(0.01):
            self.most = max(self.most, self.weight())

    def ask(self) -> None:
        with self.api.http() as web:
            while not self.stop.is_set():
                began = time.monotonic()
                web.get("/v1/files?limit=1").raise_for_status()
                self.longest_s = max(self.longest_s, time.monotonic() - began)

    def check(self, what: str, took: float) -> None:
        growth = self.most - self.before
        print(f"{what}: {took:.1f} s, memory +{growth / 2**20:.0f} MiB, another request waited {self.longest_s:.3f} s")
        assert growth < MOST_GROWTH and self.longest_s < MOST_PAUSE_S


def stored(api: RunningService) -> list[str]:
    folder = api.folder / "files"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def wait_until_nothing_is_left(api: RunningService) -> None:
    deadline = time.monotonic() + 15
    while stored(api):
        assert time.monotonic() < deadline, stored(api)
        time.sleep(0.02)


def test_a_file_of_200_mb_comes_and_goes_in_bounded_memory_while_others_are_served(api, large):
    client = api.openai()
    client.files.create(file=("warm", b"x"), purpose="user_data")
    began = time.monotonic()
    with Watch(api) as watch, large.open("rb") as file:
        made = client.files.create(file=file, purpose="batch")
    watch.check("upload", time.monotonic() - began)
    assert made.bytes == large.stat().st_size
    began = time.monotonic()
    with Watch(api) as watch, client.files.with_streaming_response.content(made.id) as answer, large.open("rb") as file:
        for piece in answer.iter_bytes(2**20):
            assert piece == file.read(len(piece))
        assert file.read() == b""
    watch.check("content", time.monotonic() - began)
    for file in client.files.list():
        client.files.delete(file.id)
    assert stored(api) == []


def test_an_upload_in_chunks_is_read_alike(api, large):
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    tail = b'\r\n--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'

    def body():
        yield head
        with large.open("rb") as file:
            while piece := file.read(50_000):
                yield piece
        yield tail

    began = time.monotonic()
    with Watch(api) as watch, api.http() as web:
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        made = web.post("/v1/files", content=body(), headers=headers, timeout=120).json()
    watch.check("upload in chunks", time.monotonic() - began)
    assert made["bytes"] == large.stat().st_size
    api.openai().files.delete(made["id"])


def test_a_body_of_50000_requests_for_anthropics_batches_is_split_in_bounded_memory(api):
    params = {"model": "tiny", "max_tokens": 5, "messages": [{"role": "user", "content": "a line\n" * 500}]}

    def body():
        yield b'{"requests": ['
        for number in range(50_000):
            yield b", " * bool(number) + json.dumps({"custom_id": f"r-{number}", "params": params}).encode()
        yield b"]}"

    began = time.monotonic()
    with Watch(api) as watch, api.http() as web:
        made = web.post(
            "/v1/messages/batches", content=body(), headers={"Content-Type": "application/json"}, timeout=120
        ).json()
    watch.check("requests", time.monotonic() - began)
    assert made["request_counts"]["processing"] == 50_000
    [name] = stored(api)
    with (api.folder / "files" / name).open() as lines:
        for number, line in enumerate(lines):
            assert line.startswith(f'{{"custom_id":"r-{number}","method":"POST","url":"/v1/messages","body":')
    assert number == 49_999 and json.loads(line)["body"] == params
    os.unlink(api.folder / "files" / name)


def opened(api: RunningService, *, length: int = 10**8, expect: bool = False) -> socket.socket:
    """A connection whose upload has begun."""
    client = socket.create_connection(("127.0.0.1", api.port))
    client.sendall(
        b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sk-local\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n%b\r\n"
        % (length, b"Expect: 100-continue\r\n" * expect)
    )
    return client


PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


def test_a_client_that_disconnects_leaves_nothing(api):
    with opened(api) as client:
        client.sendall(PART + bytes(5_000_000))
        while not stored(api):
            time.sleep(0.01)
        assert ".part" in stored(api)[0]
    wait_until_nothing_is_left(api)
    assert "Traceback" not in api.log()


def test_a_client_that_waits_for_100_continue_is_told_to_send(api):
    body = PART + b'abc\r\n--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'
    with opened(api, length=len(body), expect=True) as client:
        assert client.recv(100).startswith(b"HTTP/1.1 100 Continue")
        client.sendall(body)
        answer = b""
        while not (found := re.search(rb"file-\w+", answer)) and (part := client.recv(10_000)):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200") and found
    api.openai().files.delete(found[0].decode())


def test_an_upload_that_is_refused_at_once_is_answered_before_its_body_is_sent(api):
    with opened(api, length=10**10) as client:
        assert client.recv(1000).startswith(b"HTTP/1.1 413")


def test_a_killed_process_leaves_a_part_that_no_list_shows(api):
    with opened(api) as client:
        client.sendall(PART + bytes(5_000_000))
        while not stored(api):
            time.sleep(0.01)
        for process in psutil.Process(api.processes["api"].pid).children(recursive=True):
            process.kill()
    while True:
        try:
            assert list(api.openai().files.list()) == []
            break
        except Exception:
            time.sleep(0.05)
    [left] = stored(api)
    assert ".part" in left
    Path(api.folder / "files" / left).unlink()
