"""Redis, API and two workers on four hosts: the cable of the one that generates is pulled in mid-stream."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import openai
import pytest
from redis.exceptions import RedisError

from common.process.valkey_seams import server_path
from common.redis.connection import connect
from tests.chaos.fake_worker import expected_text
from tests.chaos.harness import wait_until
from tests.e2e.hosts import Host, hosts

pytestmark = pytest.mark.timeout(300)
KEY = "sk-of-the-test"
SEED, NUM_TOKENS = 7, 60


class Cluster:
    """Four hosts; Redis and the API run, workers are started by the test."""

    def __init__(self, made: list[Host], folder: Path) -> None:
        self.store, self.web, *self.workers = made
        self.folder = folder
        self.url = f"http://{self.web.address}:8000"
        redis_url = f"redis://{self.store.address}:6379/0"
        self.redis = connect(redis_url)
        self.environment = {
            "REDIS_URL": redis_url,
            "OMNI_HOST": self.web.address,
            "OMNI_PORT": "8000",
            "OMNI_API_KEYS": KEY,
            "OMNI_MODEL_NAME": "fake",
            "OMNI_DATA_DIR": str(folder),
            "CHAOS_STEP_S": "0.05",
        }
        valkey = [server_path(), "--bind", self.store.address, "--protected-mode", "no", "--save", ""]
        self.store.run([*valkey, "--dir", str(folder)], {}, folder / "valkey.log")
        wait_until(self.is_up, 20, "Valkey")
        self.web.run([sys.executable, "-m", "api.server"], self.environment, self.log(self.web))

    def start(self, worker: Host) -> None:
        known = self.fences()
        parent = [sys.executable, "-m", "common.process.supervise", "worker", "--watch", "--"]
        child = [sys.executable, "-m", "tests.chaos.fake_worker"]
        worker.run([*parent, *child], self.environment, self.log(worker))
        wait_until(lambda: self.fences() != known, 60, "a worker")

    def log(self, host: Host) -> Path:
        return self.folder / f"{host.name}.log"

    def is_up(self) -> bool:
        try:
            return bool(self.redis.ping())
        except RedisError:
            return False

    def is_healthy(self) -> bool:
        try:
            return httpx2.get(f"{self.url}/health", timeout=2).status_code == 200
        except httpx2.HTTPError:
            return False

    def fences(self) -> list[int]:
        return [int(fence) for fence in self.redis.zrange("omni:workers", 0, -1)]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and ip")
    try:
        with hosts("db", "web", "a", "b") as made:
            yield Cluster(made, tmp_path)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode(errors='replace')}")


def test_a_stream_outlives_a_pulled_cable_and_the_zombie_is_fenced(cluster: Cluster) -> None:
    for worker in cluster.workers:
        cluster.start(worker)
    wait_until(cluster.is_healthy, 60, "the service")
    fences = dict(zip(cluster.fences(), cluster.workers, strict=True))
    client = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key=KEY)
    answer = client.completions.create(model="fake", prompt="x", max_tokens=NUM_TOKENS, seed=SEED, stream=True)
    text = next(iter(answer)).choices[0].text
    [(zombie, host)] = [(fence, host) for fence, host in fences.items() if cluster.redis.zcard(f"omni:running:{fence}")]
    host.pull()
    for chunk in answer:
        text += chunk.choices[0].text if chunk.choices else ""
    assert text == expected_text(SEED, NUM_TOKENS)
    assert zombie not in cluster.fences()
    host.plug_in()
    wait_until(lambda: "was replaced" in cluster.log(host).read_text(), 60, "the end of the worker that was cut off")
