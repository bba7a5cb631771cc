"""The OpenAI client against SmolLM2-135M-Instruct, the GGUF file that `make run` serves."""

import json
from typing import Any

from checks import KEY, MODEL, URL, WEATHER, run
from openai import OpenAI

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]
TOKENS = {  # by the model's own tokenizer: digits are single tokens
    "Hello world! 123": [19556, 905, 17, 216, 33, 34, 35],
    "Café déjà vu.": [51, 1939, 2756, 32564, 90, 16739, 386, 101, 30],
}

client = OpenAI(base_url=f"{URL}/v1", api_key=KEY, timeout=60)


def the_weights_are_named() -> None:
    served = {model.id: model for model in client.models.list()}
    assert (served[MODEL].model_extra or {})["root"] == "SmolLM2-135M-Instruct.Q4_1.gguf", served


def it_knows_the_capital_of_france() -> None:
    chunks = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=30, stream=True)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    text = "".join(choice.delta.content or "" for choice in choices)
    assert "Paris" in text and choices[-1].finish_reason == "stop", text


def texts_become_its_tokens() -> None:
    for text, expected in TOKENS.items():
        answer = client.post("/../tokenize", body={"model": MODEL, "prompt": text}, cast_to=object)
        assert isinstance(answer, dict) and answer["tokens"] == expected, answer


def a_forced_tool_is_called() -> None:
    tools: Any = [WEATHER]
    asked: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        forced: Any = choice
        answer = client.chat.completions.create(
            model=MODEL, messages=asked, tools=tools, tool_choice=forced, temperature=0, max_tokens=60
        )
        call: Any = (answer.choices[0].message.tool_calls or [None])[0]
        assert call is not None and set(json.loads(call.function.arguments)) == {"city"}, answer


run(the_weights_are_named, it_knows_the_capital_of_france, texts_become_its_tokens, a_forced_tool_is_called)
