"""Shared fixtures: a real Valkey, and the whole real service."""

import gc
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import httpcore2
import pytest
from hypothesis import settings
from redis import Redis

from common.environment import set_default
from common.process.valkey_seams import server_path
from common.records.database import Records
from common.redis.connection import connect
from tests import postgresql
from tests.service import RunningService
from worker.process_setup import prepare_process


def pytest_configure() -> None:
    """Before any test module loads torch. The processes that tests start are told the same."""
    set_default("GOMP_SPINCOUNT", "0")  # threads without work sleep: several processes share the cores
    prepare_process()
    settings.register_profile("omni", settings.default, deadline=None)  # an example is slow where others compute
    settings.load_profile("omni")
    httpcore2.default_ssl_context = cache(httpcore2.default_ssl_context)  # each client reads 140 certificates, for HTTP


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """The tests and what they import live until the end: collections of garbage need not look at them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)  # tiny products: a second thread would mostly be waited for


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
def postgresql_server() -> Iterator[postgresql.PostgreSQL]:
    """A private PostgreSQL server; skips where none is installed."""
    if postgresql.binaries() is None:
        pytest.skip(postgresql.NEEDS)
    with postgresql.running() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/omni.db"
    server: postgresql.PostgreSQL = request.getfixturevalue("postgresql_server")
    return server.new_database()


@pytest.fixture
def records(store_url: str) -> Records:
    """An empty store, on SQLite and on PostgreSQL."""
    return Records(store_url)


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The whole service with the demo model, shared by all tests that do not break it."""
    with RunningService(tmp_path_factory.mktemp("omni")) as running:
        yield running.start()
