"""A deploy in mid-answer: no client takes the part for the whole, and a client that resumes loses nothing."""

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread
from typing import Any
from urllib.request import Request, urlopen

import openai
import psutil
import pytest
from click.testing import CliRunner

from cli.main import main as cli
from tests.chaos.client import Api, chat
from tests.chaos.harness import Harness, Options, running, wait_until

pytestmark = pytest.mark.timeout(180)

STEP_S = 0.02
LONG = 1500  # more tokens than come before a process has left
SHORT = 20  # few enough to come all the same, unless the machine is busy
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
KEY = {"Authorization": "Bearer sk-chaos"}
MESSAGES: Any = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def stage() -> Iterator[Harness]:
    with running(Options(step_s=STEP_S, through_proxy=False)) as harness:
        yield harness


def sigterm(stage: Harness) -> "list[psutil.Process]":
    """Each process gets SIGTERM; its parent starts the next."""
    asked = stage.api_processes()
    for process in asked:
        process.terminate()
    return asked


def sighup(stage: Harness) -> "list[psutil.Process]":
    """The supervisor starts a new process before it stops the old one."""
    old = stage.api_processes()
    stage.apis[0].send(signal.SIGHUP)
    return old


def are_gone(processes: "list[psutil.Process]") -> bool:
    return not any(process.is_running() for process in processes)


Restart = Callable[[Harness], "list[psutil.Process]"]
both = pytest.mark.parametrize("restart", [sigterm, sighup])


def until_served_again(stage: Harness, old: "list[psutil.Process]") -> None:
    wait_until(lambda: are_gone(old) and stage.num_listening() == stage.options.num_apis, 60)


def bodies(num_tokens: int) -> dict[str, dict[str, Any]]:
    return {
        "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": num_tokens},
        "/v1/completions": {"prompt": "Hello", "max_tokens": num_tokens},
        "/v1/responses": {"input": "Hello", "max_output_tokens": num_tokens},
        "/v1/messages": {"messages": MESSAGES, "max_tokens": num_tokens},
    }


async def streams(stage: Harness, restart: Restart, num_tokens: int, **fields: Any) -> dict[str, bytes]:
    """The whole of one stream of each endpoint when everything is restarted in its middle."""
    api = Api(stage.port)
    asked = {
        path: {"model": "fake", "stream": True, "seed": 7} | body | fields for path, body in bodies(num_tokens).items()
    }
    asked["/v1/messages"].pop("background", None)  # which Anthropic's API does not have
    opened = {path: await api.open("POST", path, body) for path, body in asked.items()}
    begun = {path: asyncio.Event() for path in opened}

    async def read(path: str) -> bytes:
        sent = b""
        async for piece in opened[path].pieces():  # raises when the connection is cut
            sent += piece
            if sent.count(b"data: ") > 8:
                begun[path].set()
        opened[path].close()
        assert begun[path].is_set(), sent
        return sent

    reading = {path: asyncio.create_task(read(path)) for path in opened}
    for path, task in reading.items():
        await asyncio.wait([task, asyncio.create_task(begun[path].wait())], timeout=30, return_when="FIRST_COMPLETED")
        assert not task.done(), task.result()
    old = await asyncio.to_thread(restart, stage)
    found = {path: await asyncio.wait_for(task, 60) for path, task in reading.items()}
    await asyncio.to_thread(until_served_again, stage, old)
    return found


def last_frame(sent: bytes) -> tuple[str, dict[str, Any]]:
    """The last event's name and data."""
    frame = sent.decode().removesuffix("\n\n").split("\n\n")[-1]
    assert sent.endswith(b"\n\n")
    name, data = "", ""
    for line in frame.splitlines():
        field, _, value = line.partition(": ")
        name, data = (value if field == "event" else name), (value if field == "data" else data)
    return name, json.loads(data)


@both
def test_a_stream_ends_with_an_error_in_the_words_of_its_endpoint(stage: Harness, restart: Restart) -> None:
    sent = asyncio.run(streams(stage, restart, LONG))
    for path in ("/v1/chat/completions", "/v1/completions"):
        _, data = last_frame(sent[path])
        assert data["error"]["code"] == "server_restarting" and data["error"]["type"] == "service_unavailable"
        assert "id: " not in sent[path].decode() and "retry: " not in sent[path].decode()
    name, data = last_frame(sent["/v1/responses"])
    assert (name, data["type"], data["code"]) == ("error", "error", "server_restarting")
    assert data["error"]["code"] == "server_restarting" and data["error"]["message"] == data["message"]
    seen = [json.loads(line[6:]) for line in sent["/v1/responses"].decode().splitlines() if line.startswith("data: ")]
    assert data["sequence_number"] == seen[-2]["sequence_number"]
    name, data = last_frame(sent["/v1/messages"])
    assert (name, data["type"], data["error"]["type"]) == ("error", "error", "overloaded_error")
    assert not any(b"[DONE]" in whole or b"message_stop" in whole for whole in sent.values())


@both
def test_a_client_that_asked_for_ids_is_sent_retry_and_misses_nothing(stage: Harness, restart: Restart) -> None:
    fields = {"stream_options": {"include_event_ids": True}, "background": True}
    sent = asyncio.run(streams(stage, restart, 700, **fields))

    async def bytes_of(api: Api, path: str, headers: Any) -> bytes:
        response = await api.open("GET", path, headers=headers)
        try:
            return b"".join([piece async for piece in response.pieces()])
        finally:
            response.close()

    async def resume(path: str, begun: bytes) -> None:
        part = begun[: -len(b"retry: 1000\n")]
        data = next(line for line in part.decode().splitlines() if line.startswith("data: "))
        first = json.loads(data[6:])
        answer_id = (first.get("response") or first.get("message") or first)["id"]
        last = max(int(line[4:]) for line in part.decode().splitlines() if line.startswith("id: "))
        rest = await bytes_of(Api(stage.port), f"{path}/{answer_id}?stream=true", {"Last-Event-ID": str(last)})
        whole = await bytes_of(Api(stage.port), f"{path}/{answer_id}?stream=true", {"Last-Event-ID": "0"})
        assert without_comments(part) + without_comments(rest) == without_comments(whole)

    async def resume_all() -> None:
        for path, begun in sent.items():
            assert begun.endswith(b"retry: 1000\n") and b'"error":{' not in begun
            await resume(path, begun)

    asyncio.run(asyncio.wait_for(resume_all(), 90))


def without_comments(sent: bytes) -> bytes:
    return b"".join(line for line in sent.splitlines(keepends=True) if not line.startswith(b":"))


@both
def test_openais_client_raises(stage: Harness, restart: Restart) -> None:
    client = openai.OpenAI(base_url=f"{stage.url}/v1", api_key="sk-chaos", max_retries=0)
    asked: dict[str, Callable[[], Any]] = {
        "chat": lambda: client.chat.completions.create(model="fake", messages=MESSAGES, stream=True, max_tokens=LONG),
        "completions": lambda: client.completions.create(model="fake", prompt="Hello", stream=True, max_tokens=LONG),
        "responses": lambda: client.responses.create(model="fake", input="Hello", stream=True, max_output_tokens=LONG),
        "resumed response": lambda: client.responses.retrieve(
            client.responses.create(model="fake", input="Hello", background=True, max_output_tokens=LONG).id,
            stream=True,
            starting_after=0,
        ),
    }

    def code_raised(ask: Callable[[], Any], has_begun: Event) -> str | None:
        with pytest.raises(openai.APIError) as raised:
            for number, _ in enumerate(ask()):
                if number == 8:
                    has_begun.set()
        return raised.value.code

    begun = {endpoint: Event() for endpoint in asked}
    with ThreadPoolExecutor(len(asked)) as pool:
        reading = {endpoint: pool.submit(code_raised, ask, begun[endpoint]) for endpoint, ask in asked.items()}
        assert all(event.wait(30) for event in begun.values()), begun
        old = restart(stage)
    assert {endpoint: read.result() for endpoint, read in reading.items()} == dict.fromkeys(asked, "server_restarting")
    until_served_again(stage, old)


@both
def test_an_answer_that_is_not_streamed_is_complete_or_a_503(stage: Harness, restart: Restart) -> None:
    async def run() -> None:
        api = Api(stage.port)
        before = jobs_of(stage)
        short = [asyncio.create_task(whole(api, SHORT, number)) for number in range(4)]
        long = [asyncio.create_task(whole(api, LONG, number)) for number in range(4)]
        await asyncio.to_thread(wait_until, lambda: len(jobs_of(stage) - before) == len(short + long), 30)
        old = await asyncio.to_thread(restart, stage)
        for status, headers, body in await asyncio.gather(*short, *long):
            if status == 200:
                assert body["usage"]["completion_tokens"] == SHORT
            else:
                assert (status, body["error"]["code"]) == (503, "server_restarting")
                assert int(headers["retry-after"]) >= 1
        assert all(task.result()[0] == 503 for task in long)
        await asyncio.to_thread(until_served_again, stage, old)

    async def whole(api: Api, num_tokens: int, number: int) -> tuple[int, dict[str, str], dict[str, Any]]:
        response = await api.open("POST", "/v1/chat/completions", chat(number, num_tokens))
        try:
            return response.status, response.headers, await response.json()
        finally:
            response.close()

    asyncio.run(asyncio.wait_for(run(), 120))


def jobs_of(stage: Harness) -> set[bytes]:
    return set(stage.redis.scan_iter("omni:job:*"))


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_cannot_be_resumed_after_a_number_that_never_existed(stage: Harness, path: str) -> None:
    async def run() -> None:
        api = Api(stage.port)
        body = {"model": "fake", "stream": True} | bodies(3)[path]
        response = await api.open("POST", path, body)
        _ = [piece async for piece in response.pieces()]
        answer_id = response.headers["omni-job-id"]
        status, answer = await api.ask("GET", f"{path}/{answer_id}?stream=true", headers={"Last-Event-ID": "1000"})
        assert status == 409 and "fewer events" in answer["error"]["message"], answer
        response.close()

    asyncio.run(asyncio.wait_for(run(), 60))


@both
def test_the_command_line_continues_where_it_was(stage: Harness, restart: Restart) -> None:
    before = jobs_of(stage)
    old: list[psutil.Process] = []

    def restart_in_the_middle() -> None:
        wait_until(lambda: any(stage.redis.xlen(log_key(key)) > 8 for key in jobs_of(stage) - before), 30)
        old.extend(restart(stage))

    restarting = Thread(target=restart_in_the_middle)
    restarting.start()
    given = {"url": stage.url, "key": "sk-chaos", "settings": lambda: stage.settings}
    done = CliRunner().invoke(cli.commands["chat"], ["Hello", "--max-tokens", "250"], obj=given)
    restarting.join()
    until_served_again(stage, old)
    assert done.exit_code == 0, done.output
    [job_key] = jobs_of(stage) - before
    with urlopen(Request(f"{stage.url}/v1/chat/completions/{job_id_of(job_key)}", headers=KEY)) as stored:
        answer = json.load(stored)
    assert done.stdout.strip() == answer["choices"][0]["message"]["content"].strip()
    assert f"{answer['usage']['completion_tokens']} tokens" in done.stderr


def job_id_of(job_key: bytes) -> str:
    return job_key.decode().removeprefix("omni:job:")


def log_key(job_key: bytes) -> str:
    return f"omni:log:{job_id_of(job_key)}"


def test_without_that_error_the_same_client_takes_a_part_for_the_whole() -> None:
    """The control of the tests above."""
    with running(Options(step_s=STEP_S, through_proxy=False, mutations=("end_cleanly",))) as broken:
        client = openai.OpenAI(base_url=f"{broken.url}/v1", api_key="sk-chaos", max_retries=0)
        num_chunks = 0
        for num_chunks, _ in enumerate(
            client.chat.completions.create(model="fake", messages=MESSAGES, stream=True, max_tokens=LONG)
        ):
            if num_chunks == 8:
                sigterm(broken)
    assert 8 < num_chunks < LONG
