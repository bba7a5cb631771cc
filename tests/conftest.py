"""Shared fixtures: a real Valkey, and the whole real service."""

import subprocess
import time
from collections.abc import Iterator

import pytest
from redis import Redis

from common.process.valkey_seams import server_path
from common.redis.connection import connect
from tests.service import RunningService
from worker.process_setup import prepare_process


def pytest_configure() -> None:
    prepare_process()  # before any test module loads torch


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Valkey on a unix socket, for tests of scripts and stores. No persistence."""
    path = tmp_path_factory.mktemp("vk") / "v.sock"
    command = [server_path(), "--port", "0", "--unixsocket", str(path), "--save", ""]
    server = subprocess.Popen([*command, "--dir", str(path.parent)], stdout=subprocess.DEVNULL)
    while not path.exists():
        time.sleep(0.01)
    yield f"unix://{path}"
    server.terminate()
    server.wait(5)


@pytest.fixture
def redis(valkey_url: str) -> Iterator["Redis"]:
    """An empty database."""
    client = connect(valkey_url)
    client.flushall()
    yield client
    client.close()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The whole service with the demo model, shared by all tests that do not break it."""
    with RunningService(tmp_path_factory.mktemp("omni")) as running:
        yield running.start()
