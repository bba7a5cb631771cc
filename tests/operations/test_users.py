"""Each process has its own Redis user (deploy/valkey/users.conf) with exactly the rights that it needs."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from redis import Redis
from redis.exceptions import ResponseError

from cli.serve import ROOT
from common.process.valkey_seams import server_path
from common.redis.connection import connect
from common.redis.key_store import KeyLimits, KeyStore
from common.redis.script import FOLDER, LIBRARIES, shared_constants
from common.redis.store import Store
from tests.chaos.harness import wait_until
from tests.service import RunningService, free_port, without_comments

FILES = ROOT / "deploy" / "valkey"
USERS = ("api", "worker", "dispatcher", "dashboard", "admin")
SCRIPTS = {
    "api": ("submit", "cancel", "poll", "forecast", "expire", "forget"),
    "worker": ("append", "card", "claim", "expire", "give_back", "reclaim", "register", "renew", "waiter", "waits"),
    "dispatcher": ("archived", "cancel", "forget", "lease"),
}
KEYS = {name for name, value in shared_constants().items() if str(value).startswith(("omni:", "rq:"))}
STORY = {"model": "omni-demo", "messages": [{"role": "user", "content": "Tell me a long story about a fox."}]}
ENDLESS = STORY | {"max_tokens": 3000, "ignore_eos": True}
REGISTRIES = ("queued", "started", "finished", "failed", "canceled", "scheduled", "deferred")


class GuardedValkey:
    """A Valkey started by deploy/valkey/start.sh. `root` is the test's own user, who sees the others' refusals."""

    def __init__(self, folder: Path, without: str) -> None:
        self.port = free_port()
        users = (FILES / "users.conf").read_text()
        assert without in users
        (folder / "users.conf").write_text(users.replace(without, "", 1) + "\nuser root on >root ~* &* +@all\n")
        (folder / "valkey-server").symlink_to(server_path())
        shutil.copy(FILES / "start.sh", folder)
        passwords = {f"REDIS_{user.upper()}_PASSWORD": f"{user}'s & own/" for user in USERS}
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--enable-debug-command", "yes"]
        self.process = subprocess.Popen(
            ["sh", str(folder / "start.sh"), *options],
            cwd=folder,
            env={"PATH": f"{folder}:{os.environ['PATH']}"} | passwords,
            stdout=subprocess.DEVNULL,
        )
        self.root = Redis(port=self.port, username="root", password="root")
        wait_until(self.root.ping, 20, "Valkey")

    def url(self, user: str) -> str:
        return f"redis://{user}:{user}'s%20&%20own%2F@127.0.0.1:{self.port}/0"

    def refused(self) -> list[tuple[str, str, str]]:
        """The commands refused to each user since the last call."""
        found = [(entry["username"], entry["reason"], entry["object"]) for entry in self.root.acl_log()]
        self.root.acl_log_reset()
        return found


@contextmanager
def guarded_valkey(folder: Path, without: str = "") -> Iterator[GuardedValkey]:
    guarded = GuardedValkey(folder, without)
    try:
        yield guarded
    finally:
        guarded.process.terminate()
        guarded.process.wait(10)


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedValkey]:
    with guarded_valkey(tmp_path_factory.mktemp("valkey")) as guarded:
        yield guarded


@pytest.fixture
def service(valkey: GuardedValkey, tmp_path: Path) -> Iterator[RunningService]:
    with RunningService(tmp_path, {"OMNI_MAX_NUM_SEQS": "1"}) as running:
        running.env_of = {name: {"REDIS_URL": valkey.url(name)} for name in ("api", "worker", "dashboard")}
        running.start("api", "worker", "dashboard").wait_healthy()
        yield running


def test_the_whole_service_is_refused_nothing(valkey: GuardedValkey, service: RunningService) -> None:
    stream, jobs = "/v1/chat/completions", "/v1/jobs"
    store = KeyStore(connect(valkey.url("admin")))
    limited = store.add("limited", KeyLimits(max_in_flight=9, tokens_per_minute=90_000, priority=5))
    store.set_limits("limited", KeyLimits(max_in_flight=8, tokens_per_minute=90_000, priority=5))
    with service.http() as http:
        answer = http.post(stream, json=STORY | {"stream": True, "max_tokens": 20})
        assert without_comments(answer.text).endswith("data: [DONE]\n\n")
        wait_until(lambda: http.get(jobs, headers={"Authorization": f"Bearer {limited}"}).status_code == 200)
        http.headers["Authorization"] = f"Bearer {limited}"
        runs, waits = (
            http.post(stream, json=ENDLESS | {"background": True} | more, headers={"Idempotency-Key": name}).json()
            for name, more in (("a", {}), ("b", {"priority": 3}))
        )
        assert http.post(stream, json=ENDLESS | {"timeout": 0.5}).status_code == 504
        again = http.post(stream, json=ENDLESS | {"background": True}, headers={"Idempotency-Key": "a"})
        assert again.json()["id"] == runs["id"]
        wait_until(lambda: http.get(f"{jobs}/{runs['id']}").json()["tokens"])
        service.worker().kill()  # its job returns to the queue and continues
        went_on = [b"1", b"0"]
        wait_until(lambda: valkey.root.hmget(f"omni:job:{runs['id']}", "crashes", "suspect") == went_on, 60)
        service.wait_healthy()
        assert [http.delete(f"{jobs}/{job['id']}").json()["state_before"] for job in (waits, runs)] == [
            "queued", "running",
        ]  # fmt: skip
        response = http.post("/v1/responses", json={"model": "omni-demo", "input": "Hello!", "max_output_tokens": 9})
        assert http.delete(f"/v1/responses/{response.json()['id']}").json()["deleted"]
        http.headers["Authorization"] = "Bearer sk-local"
        assert {http.get(path).status_code for path in (jobs, "/metrics", "/v1/models")} == {200}
        answer = http.post("/v1/load_lora_adapter", json={"lora_name": "x", "lora_path": "/nowhere"})
        assert answer.status_code == 400 and "is not a folder" in answer.text  # listed, refused by the worker, unlisted
        with http.stream("GET", "/admin/board") as board:
            assert next(board.iter_lines())
    look_at_the_dashboard(service, runs["id"])
    store.usage("limited")
    store.revoke("limited")
    service.processes["worker"].terminate()
    assert service.processes["worker"].wait(10) == 0
    assert valkey.refused() == []


def look_at_the_dashboard(service: RunningService, job_id: str) -> None:
    kinds = [f"jobs/deepseek-v3.2/{name}/8/{order}/1" for name in REGISTRIES for order in ("asc", "dsc")]
    with httpx2.Client(base_url=f"http://127.0.0.1:{service.dashboard_port}/0", follow_redirects=True) as http:
        for what in ("queues", "workers", f"job/{job_id}", *kinds):
            assert http.get(f"/view/{what}").status_code == 200, what
            assert http.get(f"/data/{what}.json").status_code == 200, what


NOBODY = (
    "CONFIG GET dir", "CONFIG SET dir /tmp", "DEBUG SLEEP 0", "MODULE LIST", "FLUSHALL", "FLUSHDB", "KEYS *", "SCAN 0",
    "ACL LIST", "CLIENT LIST", "MONITOR", "SAVE", "SHUTDOWN NOSAVE", "REPLICAOF NO ONE", "FUNCTION LIST", "SWAPDB 0 1",
    "SET other 1", "GET other", "PSUBSCRIBE *", "SUBSCRIBE other", "MIGRATE h 1 k 0 1",
)  # fmt: skip
FORBIDDEN = {
    "api": (
        "HSET omni:key:x admin 1", "HSET omni:keys n o", "INCR omni:keys:version", "ZADD omni:workers 9 9",
        "HSET omni:queues m q", "SET omni:card:q x", "DEL omni:worker:1", "HSET omni:loading:q what x",
        "INCR omni:fence", "HGETALL rq:job:x", "PUBLISH rq:pubsub:x 1", "EVAL return(redis.call('keys','*')) 0",
        "EVAL return(redis.call('incr','omni:fence')) 0",
    ),
    "worker": (
        "HGETALL omni:key:x", "HGETALL omni:keys", "HSET omni:key:x admin 1", "HGETALL omni:idem:o:x",
        "INCR omni:keys:version", "EVAL return(redis.call('hgetall','omni:keys')) 0",
    ),
    "dispatcher": (
        "HGETALL omni:key:x", "HSET omni:key:x admin 1", "HSET omni:keys n o", "INCR omni:fence", "SET omni:card:q x",
        "HSET omni:queues m q", "PUBLISH omni:other 1", "EVAL return(redis.call('incr','omni:fence')) 0",
    ),
    "dashboard": (
        "HGETALL omni:job:x", "XRANGE omni:log:x - +", "HSET rq:job:x status queued", "DEL rq:job:x",
        "RPUSH rq:queue:q x", "PUBLISH omni:control:q work", "EVAL return(1) 0", "SCRIPT LOAD return(1)",
    ),
    "admin": ("HGETALL omni:job:x", "XRANGE omni:log:x - +", "DEL omni:job:x", "EVAL return(1) 0", "ACL SETUSER x on"),
}  # fmt: skip


@pytest.mark.parametrize("user", USERS)
def test_no_user_can_do_more_than_its_part(valkey: GuardedValkey, user: str) -> None:
    with connect(valkey.url(user)) as redis:
        assert redis.ping()
        for words in NOBODY + FORBIDDEN[user]:
            with pytest.raises(Exception, match="(?i)permission|acl failure|can't access"):
                redis.execute_command(*words.split())
                pytest.fail(f"{user} may {words}")
    valkey.refused()


def test_without_a_user_nothing_is_answered(valkey: GuardedValkey) -> None:
    for credentials in ("", ":x@", "default:@", "api:@", "api:wrong@", "worker:api's%20&%20own%2F@"):
        with pytest.raises(Exception, match="(?i)auth|password|username"):
            connect(f"redis://{credentials}127.0.0.1:{valkey.port}/0", retries=0).ping()
    valkey.refused()


@pytest.mark.parametrize(
    ("without", "work"),
    [
        (" ~omni:log:*", lambda store: store.log.entries("x")),
        (" &omni:control:*", lambda store: store.cancel("x")),
        (" %R~omni:worker:*", lambda store: store.directory.workers()),
        (" +script|load", lambda store: store.expire("q")),
        (" +zrangebyscore", lambda store: store.expire("q")),
    ],
)
def test_every_right_is_needed(tmp_path: Path, without: str, work: Callable[[Store], object]) -> None:
    with guarded_valkey(tmp_path, without) as valkey:
        valkey.root.hset("omni:job:x", mapping={"state": "running", "queue": "q", "owner": "o", "member": "m"})
        valkey.root.zadd("omni:workers", {"1": 1})
        with connect(valkey.url("api"), retries=0) as redis, pytest.raises(ResponseError, match="(?i)permission"):
            work(Store(redis))
        assert {user for user, _, _ in valkey.refused()} == {"api"}


@pytest.mark.parametrize("user", SCRIPTS)
def test_every_command_and_key_of_its_scripts_is_granted(user: str) -> None:
    assert {name for names in SCRIPTS.values() for name in names} | set(LIBRARIES) == {
        path.stem for path in FOLDER.glob("*.lua")
    }
    [line] = re.findall(f"^user {user} .*", (FILES / "users.conf").read_text(), re.MULTILINE)
    patterns = [re.split("[~&]", word)[1] for word in line.split() if re.search("[~&]", word)]
    text = "".join((FOLDER / f"{name}.lua").read_text() for name in (*LIBRARIES, *SCRIPTS[user]))
    commands = {name.lower() for name in re.findall(r"redis\.call\('([A-Z]+)'", text)}
    assert commands <= {word[1:] for word in line.split() if word.startswith("+")} or "+@write" in line
    for key in {shared_constants()[name] for name in re.findall(r"\b[A-Z_]{3,}\b", text) if name in KEYS}:
        assert any(key.startswith(pattern.partition("*")[0]) or pattern == key for pattern in patterns), key
