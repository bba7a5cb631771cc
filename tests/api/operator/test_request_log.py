"""One line for each request, when its answer has ended, with what an operator asks for at night."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.chaos.harness import wait_until
from tests.service import RunningService

BODY = {"model": "omni-demo", "temperature": 0, "messages": [{"role": "user", "content": "Hello there!"}]}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("log"), {"OMNI_LOG_LEVEL": "debug"}) as running:
        yield running.start()


def line_of(service: RunningService, request_id: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        lines = [line for line in service.log().splitlines() if request_id in line and '"route"' in line]
        return [json.loads(line) for line in lines]

    wait_until(found)
    [line] = found()
    return line


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_s_line_has_key_tokens_and_times(service: RunningService, is_streamed: bool) -> None:
    with service.http() as http:
        body = BODY | {"max_tokens": 8, "ignore_eos": True, "stream": is_streamed}
        answer = http.post("/v1/chat/completions", json=body)
    line = line_of(service, answer.headers["X-Request-Id"])
    expected = {"method": "POST", "route": "/v1/chat/completions", "status": 200, "key": "key 1", "level": "info"}
    assert expected.items() <= line.items() and line["job_id"] == answer.headers["Omni-Job-Id"]
    assert line["end"] == "finished" and line["completion_tokens"] == 8 and line["prompt_tokens"] > 3
    assert 0 < line["ttft_ms"] <= line["ms"]
    assert "Hello" not in json.dumps(line) and service.key not in json.dumps(line)


def test_a_client_that_leaves_is_told_with_what_was_written(service: RunningService) -> None:
    body = BODY | {"max_tokens": 2000, "ignore_eos": True, "stream": True}
    with service.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as answer:
        for number, _ in enumerate(answer.iter_text()):
            if number == 3:
                break
    line = line_of(service, answer.headers["X-Request-Id"])
    assert line["end"] == "left" and 0 < line["completion_tokens"] < 2000


def test_a_refusal_has_no_tokens_and_a_get_is_for_debugging(service: RunningService) -> None:
    with service.http() as http:
        refused = http.post("/v1/chat/completions", json={"model": "omni-demo"})
        listed = http.get("/v1/models")
    line = line_of(service, refused.headers["X-Request-Id"])
    assert line["status"] == 400 and line["key"] == "key 1" and not {"end", "ttft_ms", "prompt_tokens"} & line.keys()
    line = line_of(service, listed.headers["X-Request-Id"])
    assert (line["method"], line["level"]) == ("GET", "debug")
