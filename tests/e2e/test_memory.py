"""The whole service bounds memory, for each key and in total."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psutil
import pytest

from bench import soak
from tests.service import RunningService

SENTENCE = "Redis has maxmemory-policy allkeys-lru, which would delete jobs; set it to noeviction."
HELLO = {"model": "omni-demo", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 3}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service whose Valkey may take 64 MB, with two keys."""
    settings = {"OMNI_MAX_MEMORY": "64mb", "OMNI_API_KEYS": f"{soak.GREEDY},{soak.OTHER},sk-local"}
    with RunningService(tmp_path_factory.mktemp("small"), settings) as running:
        yield running.start()


def ask(service: RunningService, key: str = "sk-other", **fields: object) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx2.post(f"{service.url}/v1/chat/completions", json=HELLO | fields, headers=headers, timeout=30)


def test_the_embedded_valkey_has_the_limit_of_the_settings(small: RunningService) -> None:
    info = small.redis().info("memory")
    assert (info["maxmemory"], info["maxmemory_policy"]) == (64 * 2**20, "noeviction")


def test_an_eviction_policy_that_is_set_while_all_runs_is_noticed(small: RunningService) -> None:
    redis = small.redis()
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        ready, refused = httpx2.get(f"{small.url}/readyz"), ask(small)
        deadline = time.monotonic() + 20
        while small.log().count(SENTENCE) == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        redis.config_set("maxmemory-policy", "noeviction")
    assert (ready.status_code, ready.json()["progress"]["what"]) == (503, SENTENCE)
    assert (refused.status_code, refused.json()["error"]["message"]) == (503, SENTENCE)
    assert int(refused.headers["retry-after"]) >= 1
    assert SENTENCE in small.log()
    assert httpx2.get(f"{small.url}/readyz").status_code == ask(small).status_code == 200


def resident(service: RunningService) -> int:
    """Resident bytes of the API's processes."""
    api = psutil.Process(service.processes["api"].pid)
    return sum(process.memory_info().rss for process in api.children(recursive=True))


def test_bodies_are_freed_while_their_answers_are_awaited(small: RunningService) -> None:
    """100 MB of unknown fields are sent while the worker is suspended."""
    ask(small, ballast=["x" * 100] * 20_000)
    before = resident(small)
    os.killpg(small.processes["worker"].pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(32) as callers:
            answers = [callers.submit(ask, small, ballast=["x" * 100] * 20_000) for _ in range(32)]
            deadline = time.monotonic() + 20
            while small.redis().zcard("omni:waiting:deepseek-v3.2") < 32 and time.monotonic() < deadline:
                time.sleep(0.05)
            grown = resident(small) - before
            os.killpg(small.processes["worker"].pid, signal.SIGCONT)
            assert {answer.result().status_code for answer in answers} == {200}
    finally:
        os.killpg(small.processes["worker"].pid, signal.SIGCONT)
    assert grown < 50 * 2**20


def announced(service: RunningService, key: str) -> socket.socket:
    """A caller that announces 8 MB and sends a few bytes."""
    caller = socket.create_connection(("127.0.0.1", service.port), 20)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
    caller.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {8 * 2**20}\r\n\r\n{{".encode())
    return caller


def test_bodies_that_never_arrive_leave_room_for_those_of_another_key(small: RunningService) -> None:
    """256 MB are announced: the last bodies are refused at once, the others at their timeout."""
    callers = [announced(small, soak.GREEDY) for _ in range(32)]
    try:
        assert ask(small, soak.OTHER, ballast="x" * 7 * 2**20).status_code == 200
        statuses = [caller.recv(12)[-3:] for caller in callers]
    finally:
        for caller in callers:
            caller.close()
    assert sorted(set(statuses)) == [b"408", b"429"]
    assert 20 <= statuses.count(b"408") <= 24


def test_one_key_that_fills_its_share_in_every_way_leaves_the_other_served(small: RunningService) -> None:
    seen = soak.run(small, seconds=10, num_attackers=4, every_s=1)
    assert seen.verdict(64 * 2**20) == [], soak.told(seen)
    tool = {"type": "function", "name": "a", "description": "x" * 3 * 2**20}
    kept = soak.RESPONSE | {"tools": [tool], "tool_choice": "none"}
    headers = {"Authorization": f"Bearer {soak.GREEDY}"}
    for _ in range(24):
        refused = httpx2.post(f"{small.url}/v1/responses", json=kept, headers=headers, timeout=30)
        if refused.status_code != 200:
            break
    assert (refused.status_code, refused.json()["error"]["param"]) == (429, "max_kept_bytes"), refused.text
    assert "delete stored responses" in refused.json()["error"]["message"]
    assert ask(small, soak.OTHER).status_code == 200
