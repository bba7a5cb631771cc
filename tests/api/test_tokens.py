"""/tokenize, /detokenize and /v1/embeddings of an application whose worker has written its card."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis

from api.app import create_app
from api.prompt.encoder import PromptEncoder
from common.redis import keys
from common.settings import read_settings
from common.wire_codec import encode_card
from tests.api.cards import encoder
from tests.api.conftest import THINKING

TINY = encoder(adds_bos=True)
Post = Callable[[str, dict[str, Any]], tuple[int, Any]]


@pytest.fixture
def client(redis: "Redis", valkey_url: str) -> FlaskClient:
    redis.hset(keys.QUEUES, "tiny", "tiny")
    redis.hset(keys.CARD_VERSIONS, "tiny", TINY.card.revision)
    redis.set(keys.card_key("tiny"), encode_card(TINY.card))
    return create_app(read_settings({"REDIS_URL": valkey_url, "OMNI_MODEL_NAME": "tiny"})).test_client()


@pytest.fixture
def post(client: FlaskClient) -> Post:
    def send(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        answer = client.post(path, json=body, headers={"Authorization": "Bearer sk-local"})
        return answer.status_code, answer.get_json()

    return send


def test_a_text_is_counted_as_completions_would_encode_it(post: Post) -> None:
    bos, a = TINY.token_id("<|bos|>"), TINY.token_id("a")
    status, answer = post("/tokenize", {"prompt": "a", "return_token_strs": True})
    assert status == 200
    assert answer == {"count": 2, "max_model_len": 100, "tokens": [bos, a], "token_strs": ["<|bos|>", "a"]}
    assert post("/tokenize", {"prompt": "a", "add_special_tokens": False})[1]["tokens"] == [a]


def test_a_text_longer_than_the_context_can_be_counted(post: Post) -> None:
    assert post("/tokenize", {"prompt": "a" * 500, "add_special_tokens": False})[1]["count"] == 500


def test_a_conversation_is_written_by_the_models_template(post: Post) -> None:
    _, answer = post("/tokenize", {"messages": [{"role": "user", "content": "a"}]})
    _, said = post("/detokenize", {"tokens": answer["tokens"]})
    assert said["prompt"] == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


def test_an_image_in_a_tool_s_result_is_a_line_of_text_as_in_a_chat(post: Post) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    messages = [{"role": "user", "content": "a"}, {"role": "tool", "tool_call_id": "1", "content": [image]}]
    _, answer = post("/tokenize", {"messages": messages})
    _, said = post("/detokenize", {"tokens": answer["tokens"]})
    assert "[image left out: this model reads text only]" in said["prompt"]


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"add_generation_prompt": False}, "<|im_end|>\n"),
        ({"reasoning_effort": "none"}, "<think>\n\n</think>"),
        ({"thinking": {"type": "disabled"}}, "<think>\n\n</think>"),
        ({"reasoning_effort": "high"}, "assistant\n"),
    ],
)
def test_what_changes_a_chat_s_prompt_changes_its_tokens(
    fields: dict[str, Any], end: str, redis: "Redis", valkey_url: str
) -> None:
    model = replace(TINY.card, chat_template=THINKING)
    redis.hset(keys.QUEUES, "tiny", "tiny")
    redis.hset(keys.CARD_VERSIONS, "tiny", model.revision)
    redis.set(keys.card_key("tiny"), encode_card(model))
    application = create_app(read_settings({"REDIS_URL": valkey_url, "OMNI_MODEL_NAME": "tiny"})).test_client()
    sent = {"messages": [{"role": "user", "content": "a"}]} | fields
    answer = application.post("/tokenize", json=sent, headers={"Authorization": "Bearer sk-local"}).get_json()
    assert PromptEncoder(model).decode(answer["tokens"]).endswith(end)


def test_nothing_is_no_tokens_and_no_tokens_are_nothing(post: Post) -> None:
    assert post("/tokenize", {"prompt": "", "add_special_tokens": False})[1]["tokens"] == []
    assert post("/detokenize", {"tokens": []})[1] == {"prompt": ""}


@settings(max_examples=50)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
def test_ids_lead_back_to_their_text(text: str) -> None:
    assert TINY.decode(TINY.tokenize(text, add_special_tokens=False, is_plain=True)) == text


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, 400, "prompt"),
        ("/tokenize", {"prompt": 5}, 400, "prompt"),
        ("/tokenize", {"model": "gpt-4o", "prompt": "a"}, 404, "model"),
        ("/detokenize", {}, 400, "tokens"),
        ("/detokenize", {"tokens": [-1]}, 400, "tokens[0]"),
        ("/detokenize", {"tokens": [10**6]}, 400, "tokens"),
        ("/v1/embeddings", {"model": "tiny", "input": "a"}, 404, "model"),
        ("/v1/embeddings", {"model": "tiny"}, 400, "input"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused_by_name(
    post: Post, path: str, body: dict[str, Any], status: int, param: str
) -> None:
    answered, answer = post(path, body)
    assert (answered, answer["error"]["param"] or "") == (status, param)


def test_a_request_for_embeddings_is_refused_with_a_remedy(post: Post) -> None:
    _, answer = post("/v1/embeddings", {"model": "text-embedding-3-small", "input": ["a", "b"]})
    assert "embedding server" in answer["error"]["message"] and answer["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/v1/embeddings", "/v1/completions"])
def test_without_a_key_there_is_no_answer(client: FlaskClient, path: str) -> None:
    assert client.post(path, json={"prompt": "a"}).status_code == 401
