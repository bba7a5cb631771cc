"""A tiny random DeepSeek-V3.2, end to end: its conversation format, its thinking switch, its DSML calls."""

import json
from collections.abc import Iterator

import openai
import pytest

from tests.models import save_model
from tests.service import RunningService

ASK = [{"role": "user", "content": "Weather?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY, "strict": True}}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    folder = save_model(tmp_path_factory.mktemp("dsv32"), "deepseek_v32", max_position_embeddings=4096)
    (folder / "chat_template.jinja").unlink()  # the published model has none
    settings = {"OMNI_MODEL": str(folder), "OMNI_MODEL_NAME": "deepseek-v3.2"}
    with RunningService(tmp_path_factory.mktemp("omni"), settings) as running:
        yield running.start().openai(max_retries=0)


def test_tools_are_called_in_its_own_markup(client: openai.OpenAI) -> None:
    options = {"model": "deepseek-v3.2", "messages": ASK, "tools": [TOOL], "tool_choice": "required"}
    with client.chat.completions.stream(**options, parallel_tool_calls=False, seed=1) as stream:
        texts = [event.delta for event in stream if event.type == "content.delta"]
        whole = stream.get_final_completion().choices[0]
    assert "".join(texts) == "" and whole.finish_reason == "tool_calls"
    [call] = whole.message.tool_calls
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    results = [whole.message, {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}]
    again = client.chat.completions.create(model="deepseek-v3.2", messages=[*ASK, *results], max_tokens=4)
    assert again.usage.completion_tokens == 4


def test_thinking_is_off_until_it_is_asked_for(client: openai.OpenAI) -> None:
    options = {"model": "deepseek-v3.2", "messages": ASK, "max_tokens": 6, "extra_body": {"ignore_eos": True}}
    plain = client.chat.completions.create(**options)
    assert plain.usage.completion_tokens_details.reasoning_tokens == 0
    thinking = client.chat.completions.create(**options, reasoning_effort="high")
    assert thinking.usage.completion_tokens_details.reasoning_tokens == 6
    assert thinking.choices[0].message.content == ""


def test_a_conversation_that_its_format_cannot_express_is_a_400(client: openai.OpenAI) -> None:
    orphan = [*ASK, {"role": "tool", "tool_call_id": "none", "content": "21"}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="deepseek-v3.2", messages=orphan)
    assert refused.value.param == "messages"
