"""A tiny random vision model, end to end: images in every endpoint's form, kept with the job, never fetched."""

from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from tests.pictures import cut, data_url
from tests.service import RunningService
from tests.vision_models import save_vision_model

RED, GREEN = data_url("red"), data_url("#00ff88", (30, 90), "JPEG")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = save_vision_model(tmp_path_factory.mktemp("vision"), "llava")
    with RunningService(
        tmp_path_factory.mktemp("omni"), {"OMNI_MODEL": str(folder), "OMNI_MODEL_NAME": "tiny"}
    ) as service:
        yield service.start()


@pytest.fixture
def client(running: RunningService) -> openai.OpenAI:
    return running.openai(max_retries=0)


def asked(*urls: str, text: str = "What is it?") -> Any:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": text}, *images]}]


def read_by_a_tool(url: str) -> Any:
    call = {"id": "1", "type": "function", "function": {"name": "read", "arguments": "{}"}}
    result = [{"type": "text", "text": "x.png"}, {"type": "image_url", "image_url": {"url": url}}]
    asked = {"role": "user", "content": "What is in x.png?"}
    return [
        asked,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": result},
    ]


def logprobs(client: openai.OpenAI, messages: Any) -> list[float]:
    answer = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=4, temperature=0, logprobs=True, extra_body={"ignore_eos": True}
    )
    return [item.logprob for item in answer.choices[0].logprobs.content]


def test_an_image_is_seen_and_its_tokens_are_counted(client: openai.OpenAI) -> None:
    assert logprobs(client, asked(RED)) != logprobs(client, asked(GREEN))
    plain, seen = (
        client.chat.completions.create(model="tiny", messages=asked(*urls), max_tokens=1).usage.prompt_tokens
        for urls in ((), (RED, GREEN))
    )
    assert seen == plain + 2 * 4  # 28 x 28 pixels in patches of 14


def test_the_name_of_the_image_token_in_a_text_is_text(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="tiny", messages=asked(RED, text="an <image> is"), max_tokens=1)
    assert answer.usage.completion_tokens == 1


def test_the_other_endpoints_take_images_too(client: openai.OpenAI, running: RunningService) -> None:
    chat = client.chat.completions.create(model="tiny", messages=asked(RED), max_tokens=1).usage.prompt_tokens
    parts = [{"type": "input_text", "text": "What is it?"}, {"type": "input_image", "image_url": RED}]
    answer = client.responses.create(model="tiny", input=[{"role": "user", "content": parts}], max_output_tokens=1)
    assert answer.usage.input_tokens == chat
    source = {"type": "base64", "media_type": "image/png", "data": RED.partition(",")[2]}
    blocks = [{"type": "text", "text": "What is it?"}, {"type": "image", "source": source}]
    body = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": blocks}]}
    with running.http() as http:
        usage = http.post("/v1/messages", json=body).json()["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] == chat
    assert usage["cache_read_input_tokens"] == answer.usage.input_tokens_details.cached_tokens == 16  # the same image


@pytest.mark.parametrize(
    ("urls", "param"),
    [
        (("http://127.0.0.1:1/a.png",), "messages[0].content[1]"),
        (("data:image/png;base64,AAAA",), "messages[0].content[1]"),
        ((RED, "data:image/svg+xml;base64,AAAA"), "messages[0].content[2]"),
        ((RED,) * 9, "messages"),
    ],
)
def test_an_image_that_is_not_a_bounded_data_url_is_refused_by_name(
    client: openai.OpenAI, urls: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", messages=asked(*urls))
    assert refused.value.param == param


def test_a_damaged_image_and_too_long_a_prompt_are_400s(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="damaged"):
        client.chat.completions.create(model="tiny", messages=asked(cut(RED)))
    with pytest.raises(openai.BadRequestError, match="256"):
        client.chat.completions.create(model="tiny", messages=asked(*[RED] * 8, text="x" * 225))


def test_an_answer_continues_when_its_worker_dies(client: openai.OpenAI, running: RunningService) -> None:
    options: dict[str, Any] = {"model": "tiny", "messages": asked(GREEN), "max_tokens": 200, "seed": 3}
    options |= {"temperature": 1, "extra_body": {"ignore_eos": True}}
    whole = client.chat.completions.create(**options).choices[0].message.content
    pieces = []
    for chunk in client.chat.completions.create(**options, stream=True):
        pieces.append(chunk.choices[0].delta.content or "")
        if len(pieces) == 5:
            running.worker().kill()
    assert "".join(pieces) == whole


def test_a_text_model_refuses_a_user_s_images_and_reads_past_a_tool_s(service: RunningService) -> None:
    with service.http() as http:
        answer: httpx2.Response = http.post("/v1/chat/completions", json={"model": "omni-demo", "messages": asked(RED)})
        read = http.post(
            "/v1/chat/completions", json={"model": "omni-demo", "messages": read_by_a_tool(RED), "max_tokens": 1}
        )
    assert answer.status_code == 400 and "text only" in answer.json()["error"]["message"]
    assert read.status_code == 200, "an agent's session goes on"
