"""The first request that the log suggests is one that the model takes."""

from dataclasses import replace

import pytest

from common.wire import ModelCard
from worker.main import example_for

CARD = ModelCard("m", ("m",), "m", "1", "qwen3_moe", 4096, 1000, 0, "{}", chat_template="{{ messages }}")


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({}, "chat/completions"),
        ({"chat_template": None}, "completions"),
        ({"chat_template": None, "architecture": "deepseek_v32"}, "chat/completions"),
    ],
)
def test_a_model_without_a_form_for_conversations_continues_a_text(change: dict[str, str | None], path: str) -> None:
    found, body = example_for(replace(CARD, **change), "mine")  # type: ignore[arg-type]
    assert found == path and body["model"] == "mine" and ("prompt" in body) is (path == "completions")
