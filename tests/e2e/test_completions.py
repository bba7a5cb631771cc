"""/v1/completions, /tokenize and /detokenize, end to end."""

import json
import time
from typing import Any

import pytest

from api.schema.answers import TextAnswer
from tests.service import RunningService, without_comments

ONCE = {"model": "omni-demo", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}


def frames_of(text: str) -> list[dict[str, Any]]:
    found = [frame for frame in without_comments(text).split("\n\n") if frame]
    assert found[-1] == "data: [DONE]"
    return [json.loads(frame.split("data: ")[1]) for frame in found[:-1]]


def test_a_text_is_completed(service: RunningService) -> None:
    answer = service.openai().completions.create(**ONCE)
    assert answer.object == "text_completion" and answer.id.startswith("cmpl-")
    assert answer.choices[0].text and answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage and answer.usage.completion_tokens <= 8


def test_a_stream_has_the_text_of_the_whole_answer(service: RunningService) -> None:
    body = ONCE | {"prompt": ["One", "Two", "Three"], "n": 2, "seed": 7, "temperature": 1}
    with service.http() as http:
        whole = http.post("/v1/completions", json=body).json()
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = frames_of(http.post("/v1/completions", json=body | options).text)
    texts = dict.fromkeys(range(6), "")
    for chunk in chunks:
        TextAnswer.model_validate(chunk)
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["text"]
    assert list(texts.values()) == [choice["text"] for choice in whole["choices"]]
    assert (
        chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    )
    TextAnswer.model_validate(whole)


def test_prompt_ids_draw_what_the_text_draws_and_ids_come_back(service: RunningService) -> None:
    with service.http() as http:
        tokens = http.post("/tokenize", json={"model": "omni-demo", "prompt": ONCE["prompt"]}).json()["tokens"]
        by_text = http.post("/v1/completions", json=ONCE).json()["choices"][0]
        by_ids = http.post("/v1/completions", json=ONCE | {"prompt": tokens, "return_token_ids": True}).json()[
            "choices"
        ][0]
        assert by_ids["text"] == by_text["text"] and by_ids["prompt_token_ids"] == tokens
        said = http.post("/detokenize", json={"model": "omni-demo", "tokens": by_ids["token_ids"]}).json()["prompt"]
    assert said.startswith(by_text["text"])


def test_a_stream_of_several_prompts_is_resumed_where_it_broke(service: RunningService) -> None:
    body = ONCE | {"prompt": ["One", "Two"], "stream": True, "stream_options": {"include_event_ids": True}}
    with service.http() as http:
        whole = http.post("/v1/completions", json=body).text
        frames = [frame for frame in without_comments(whole).split("\n\n") if frame.startswith("id: ")]
        answer_id = json.loads(frames[0].split("data: ")[1])["id"]
        path = f"/v1/completions/{answer_id}"
        for after in (0, 3, len(frames)):
            resumed = http.get(path, params={"stream": "true", "starting_after": after}).text
            assert resumed == "".join(f"{frame}\n\n" for frame in frames[after:]) + "data: [DONE]\n\n"
        stored = http.get(path).json()
        assert [choice["index"] for choice in stored["choices"]] == [0, 1]
        assert http.get(f"/v1/completions/{answer_id}-1").status_code == 404
        assert http.get(path, headers={"Authorization": "Bearer wrong"}).status_code == 401


def test_an_idempotency_key_stands_for_all_prompts(service: RunningService) -> None:
    body, key = ONCE | {"prompt": ["One", "Two"], "temperature": 1}, {"Idempotency-Key": f"twice-{time.time()}"}
    with service.http() as http:
        first, second = (http.post("/v1/completions", json=body, headers=key).json() for _ in range(2))
        assert first == second
        other = http.post("/v1/completions", json=body | {"n": 2}, headers=key)
    assert other.status_code == 422


def test_a_background_text_is_accepted_at_once_and_fetched_later(service: RunningService) -> None:
    with service.http() as http:
        taken = http.post("/v1/completions", json=ONCE | {"background": True, "prompt": ["One", "Two"]})
        assert taken.status_code == 202 and taken.json()["choices"] == []
        deadline = time.monotonic() + 20
        while (answer := http.get(f"/v1/completions/{taken.json()['id']}")).status_code == 202:
            assert time.monotonic() < deadline
        assert len(answer.json()["choices"]) == 2


def test_a_caller_that_disconnects_ends_all_prompts(service: RunningService) -> None:
    body = ONCE | {"prompt": ["One", "Two"], "max_tokens": 1500, "ignore_eos": True, "stream": True}
    with service.http() as http:
        with http.stream("POST", "/v1/completions", json=body) as response:
            answer_id = response.headers["Omni-Job-Id"]
            next(response.iter_bytes())
        deadline = time.monotonic() + 10
        for job_id in (answer_id, f"{answer_id}-1"):
            while (state := http.get(f"/v1/jobs/{job_id}").json()["state"]) in ("queued", "running"):
                assert time.monotonic() < deadline
            assert state == "cancelled"


def test_a_text_follows_a_grammar(service: RunningService) -> None:
    with service.http() as http:
        answer = http.post("/v1/completions", json=ONCE | {"guided_choice": ["yes", "no"]}).json()
    assert answer["choices"][0]["text"] in ("yes", "no")


def test_a_conversation_is_counted_as_chat_counts_it(service: RunningService) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    with service.http() as http:
        counted = http.post("/tokenize", json={"messages": messages, "return_token_strs": True}).json()
        body = {"model": "omni-demo", "messages": messages, "max_tokens": 1}
        usage = http.post("/v1/chat/completions", json=body).json()["usage"]
    assert counted["count"] == len(counted["tokens"]) == len(counted["token_strs"]) == usage["prompt_tokens"]
    assert counted["max_model_len"] > counted["count"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {"model": "omni-demo"}, 400, "prompt"),
        ("/tokenize", {"model": "gpt-4o", "prompt": "a"}, 404, "model"),
        ("/detokenize", {"tokens": [10**6]}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens[0]"),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "a"}, 404, "model"),
        ("/v1/embeddings", {"input": "a"}, 400, "model"),
        ("/v1/completions", ONCE | {"prompt": "a", "suffix": "b"}, 400, "suffix"),
        ("/v1/completions", ONCE | {"prompt": "word " * 4000}, 400, "prompt"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused_by_name(
    service: RunningService, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    with service.http() as http:
        answer = http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param)
