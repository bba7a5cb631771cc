"""The whole service from a caller's side: real HTTP, queue, worker and model."""

import json
import time

import openai
import pytest
from rq.job import Job
from rq.queue import Queue
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from tests.service import RunningService, without_comments

HELLO = [{"role": "user", "content": "Hello, how are you?"}]
STORY = [{"role": "user", "content": "Tell me a long story about a fox."}]


def test_a_chat_is_answered(service: RunningService) -> None:
    answer = service.openai().chat.completions.create(model="deepseek-v3.2", messages=HELLO)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-")
    assert answer.choices[0].message.role == "assistant" and answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage and answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_has_the_text_of_the_whole_answer(service: RunningService) -> None:
    client = service.openai()
    whole = client.chat.completions.create(model="omni-demo", messages=HELLO, temperature=0)
    chunks = list(
        client.chat.completions.create(
            model="omni-demo", messages=HELLO, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert not chunks[-1].choices and chunks[-1].usage == whole.usage.model_copy(
        update={"prompt_tokens_details": chunks[-1].usage.prompt_tokens_details}
    )


def test_every_frame_is_data_and_the_last_is_done(service: RunningService) -> None:
    body = {"model": "omni-demo", "messages": HELLO, "stream": True, "temperature": 0}
    with service.http() as http:
        frames = without_comments(http.post("/v1/chat/completions", json=body).text).removesuffix("\n\n").split("\n\n")
    assert all(frame.startswith("data: ") and "\n" not in frame for frame in frames)
    assert frames[-1] == "data: [DONE]"
    assert all(json.loads(frame.removeprefix("data: "))["choices"] for frame in frames[:-1])


def test_a_client_that_asks_for_ids_gets_every_frame_numbered(service: RunningService) -> None:
    body = {"model": "omni-demo", "messages": HELLO, "stream": True, "temperature": 0}
    body["stream_options"] = {"include_event_ids": True}
    with service.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        frames = [frame for frame in without_comments(response.read().decode()).split("\n\n") if frame]
    assert frames[-1] == "data: [DONE]"
    assert [int(frame.split("\n")[0].removeprefix("id: ")) for frame in frames[:-1]] == list(range(1, len(frames)))


def test_a_stored_completion_can_be_fetched_and_its_stream_resumed_anywhere(service: RunningService) -> None:
    with service.http() as http:
        body = {"model": "omni-demo", "messages": STORY, "stream": True, "temperature": 0, "max_tokens": 40}
        body["stream_options"] = {"include_event_ids": True}
        whole = http.post("/v1/chat/completions", json=body).text
        frames = [frame for frame in without_comments(whole).split("\n\n") if frame.startswith("id: ")]
        job_id = json.loads(frames[0].split("data: ")[1])["id"]
        path = f"/v1/chat/completions/{job_id}"
        resumed = http.get(path, params={"stream": "true", "starting_after": 5}).text
        by_header = http.get(path, params={"stream": "true"}, headers={"Last-Event-ID": "5"}).text
        assert resumed == by_header == "\n\n".join(frames[5:]) + "\n\ndata: [DONE]\n\n"
        beyond = http.get(path, params={"stream": "true", "starting_after": len(frames) + 1})
        assert (beyond.status_code, beyond.json()["error"]["code"]) == (409, "stream_rewound")
        stored = http.get(path).json()
        text = "".join(json.loads(f.split("data: ")[1])["choices"][0]["delta"].get("content", "") for f in frames)
        assert stored["choices"][0]["message"]["content"] == text


def test_a_background_job_is_accepted_at_once_and_fetched_later(service: RunningService) -> None:
    with service.http() as http:
        taken = http.post("/v1/chat/completions", json={"model": "omni-demo", "messages": HELLO, "background": True})
        assert taken.status_code == 202 and taken.json()["status"] in ("queued", "in_progress")
        deadline = time.monotonic() + 20
        while (answer := http.get(f"/v1/chat/completions/{taken.json()['id']}")).status_code == 202:
            assert time.monotonic() < deadline
        assert answer.json()["choices"][0]["message"]["content"]


def test_many_requests_at_once_get_the_answer_of_one_alone(service: RunningService) -> None:
    client = service.openai()
    alone = client.chat.completions.create(model="omni-demo", messages=HELLO, temperature=0).choices[0].message.content
    streams = [
        client.chat.completions.create(model="omni-demo", messages=HELLO, temperature=0, stream=True) for _ in range(12)
    ]
    for stream in streams:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == alone


def test_rq_shows_the_job_as_it_is_and_nothing_of_the_text(service: RunningService) -> None:
    answer = service.openai().chat.completions.create(model="omni-demo", messages=HELLO)
    redis = service.redis()
    job = Job.fetch(answer.id, connection=redis, serializer=JSONSerializer)
    assert job.get_status() == "finished" and job.started_at and job.ended_at and job.worker_name
    queue = Queue("deepseek-v3.2", connection=redis, serializer=JSONSerializer)
    assert answer.id in FinishedJobRegistry(queue=queue).get_job_ids()
    assert answer.id not in StartedJobRegistry(queue=queue).get_job_ids()
    assert "Hello" not in repr(redis.hgetall(f"rq:job:{answer.id}"))
    assert job.func_name == "omni.generate" and job.args == [answer.id]


def test_a_failed_job_is_in_rqs_failed_registry_with_its_code(service: RunningService) -> None:
    with service.http() as http:
        body = {"model": "omni-demo", "messages": STORY, "background": True, "timeout": 1, "ignore_eos": True}
        job_id = http.post("/v1/chat/completions", json=body).json()["id"]
        deadline = time.monotonic() + 20
        while http.get(f"/v1/jobs/{job_id}").json()["state"] in ("queued", "running"):
            assert time.monotonic() < deadline
        assert http.get(f"/v1/chat/completions/{job_id}").status_code == 504
    queue = Queue("deepseek-v3.2", connection=service.redis(), serializer=JSONSerializer)
    assert job_id in FailedJobRegistry(queue=queue).get_job_ids()
    with pytest.deprecated_call():  # the attribute that rq-dashboard reads
        assert Job.fetch(job_id, connection=service.redis(), serializer=JSONSerializer).exc_info == "timeout"


def test_health_has_the_four_keys_of_the_reference(service: RunningService) -> None:
    with service.http() as http:
        health = http.get("/health", headers={"Authorization": ""}).json()
    assert {"status": "healthy", "model": "deepseek-v3.2", "gpu_memory_used": "0GB"}.items() <= health.items()
    assert isinstance(health["uptime_seconds"], int)


def test_models_are_listed_and_found_by_id(service: RunningService) -> None:
    client = service.openai()
    assert [model.id for model in client.models.list()] == ["deepseek-v3.2", "omni-demo"]
    assert client.models.retrieve("omni-demo").owned_by == "protocol-omni"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"temperature": 2.5}, 400, None, "temperature"),
        ({"temperature": True}, 400, None, "temperature"),
        ({"max_tokens": 0}, 400, None, "max_tokens"),
        ({"messages": []}, 400, None, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, None, "messages[0].role"),
        ({"n": 10**9}, 400, None, "n"),
        ({"model": "gpt-4o"}, 404, "model_not_found", "model"),
        ({"messages": [{"role": "user", "content": "word " * 5000}]}, 400, "context_length_exceeded", "messages"),
        ({"logit_bias": {"x": 1}}, 400, None, "logit_bias"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused_by_name(
    service: RunningService, change: dict[str, object], status: int, code: str | None, param: str
) -> None:
    with service.http() as http:
        answer = http.post("/v1/chat/completions", json={"model": "omni-demo", "messages": HELLO} | change)
    assert answer.status_code == status
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == (code, param)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": STORY, "max_tokens": 1900}),
        ("/v1/completions", {"prompt": "Once", "max_tokens": 1900}),
        ("/v1/responses", {"input": "Tell me a story.", "max_output_tokens": 1900}),
        ("/v1/messages", {"messages": STORY, "max_tokens": 1900}),
    ],
)
def test_the_error_of_a_job_that_timed_out_has_its_id_in_a_header(
    service: RunningService, path: str, body: dict[str, object]
) -> None:
    with service.http() as http:
        answer = http.post(path, json=body | {"model": "omni-demo", "timeout": 0.05, "ignore_eos": True})
        assert answer.status_code == 504
        job = http.get(f"/v1/jobs/{answer.headers['Omni-Job-Id']}").json()
    assert (job["state"], job["code"]) == ("failed", "timeout")


def test_without_a_key_nothing_is_served_but_health(service: RunningService) -> None:
    with service.http() as http:
        for path in ("/v1/models", "/v1/jobs"):
            answer = http.get(path, headers={"Authorization": "Bearer wrong"})
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        assert http.get("/livez", headers={"Authorization": ""}).status_code == 200


def test_a_page_elsewhere_cannot_reach_us_by_rebinding(service: RunningService) -> None:
    with service.http() as http:
        assert http.get("/v1/models", headers={"Host": "evil.example"}).status_code == 421
