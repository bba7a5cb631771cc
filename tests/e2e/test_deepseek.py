"""A small DeepSeek-V3.2 as released, end to end: fp8 blocks, sparse attention, the MTP layer, thinking, DSML calls."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier
from typing import Any

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.chaos.harness import wait_until
from tests.deepseek import save_deepseek, save_unpacked
from tests.service import RunningService
from tests.worker.conftest import prompt_of

NAME = "deepseek-v3.2"
NUM_STREAMS, NUM_TOKENS = 16, 24
ASK = [{"role": "user", "content": "Weather?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": CITY, "strict": True}}


@dataclass(frozen=True)
class Served:
    """The running service, and the answers that transformers gives to the prompts."""

    service: RunningService
    prompts: list[list[int]]
    expected: list[list[int]]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Prompts of 5 to 140 tokens; a query chooses 32."""
    folder = save_deepseek(tmp_path_factory.mktemp("released"), mtp="agreeing", layer_gain=0.15)
    unpacked = save_unpacked(folder, tmp_path_factory.mktemp("unpacked"))
    prompts = [prompt_of(5 + 9 * number, number) for number in range(NUM_STREAMS)]
    settings = {
        "OMNI_MODEL": str(folder), "OMNI_MODEL_NAME": NAME, "OMNI_DTYPE": "float32", "OMNI_MAX_MODEL_LEN": "2048",
        "OMNI_SPECULATE": "2", "OMNI_MAX_NUM_SEQS": str(NUM_STREAMS),
    }  # fmt: skip
    with RunningService(tmp_path_factory.mktemp("omni"), settings) as running:
        with ThreadPoolExecutor(1) as beside:
            expected = beside.submit(answers_of_transformers, unpacked, prompts)
            running.start()
            yield Served(running, prompts, expected.result())


@pytest.fixture
def client(served: Served) -> openai.OpenAI:
    return served.service.openai(max_retries=0)


@torch.inference_mode()
def answers_of_transformers(folder: Path, prompts: list[list[int]]) -> list[list[int]]:
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", experts_implementation="eager")
    model.generation_config.eos_token_id = None
    options: dict[str, Any] = {"max_new_tokens": NUM_TOKENS, "do_sample": False}
    answers = [model.generate(torch.tensor([prompt]), **options)[0].tolist() for prompt in prompts]
    return [answer[len(prompt) :] for answer, prompt in zip(answers, prompts, strict=True)]


def stream_all(served: Served, kill_at: int | None = None) -> list[list[int]]:
    """The tokens of one stream for each prompt, all at once; the worker dies when the first has so many chunks."""
    barrier = Barrier(NUM_STREAMS)

    def read(number: int) -> list[int]:
        barrier.wait()
        answer = served.service.openai(max_retries=0).completions.create(
            model=NAME, prompt=served.prompts[number], max_tokens=NUM_TOKENS, temperature=0, stream=True,
            extra_body={"ignore_eos": True, "return_token_ids": True},
        )  # fmt: skip
        token_ids: list[int] = []
        for at, chunk in enumerate(answer):
            if number == 0 and at == kill_at:
                served.service.worker().kill()
            for choice in chunk.choices:
                token_ids += (choice.model_extra or {}).get("token_ids") or []
        return token_ids

    with ThreadPoolExecutor(NUM_STREAMS) as readers:
        return list(readers.map(read, range(NUM_STREAMS)))


def test_sixteen_streams_at_once_are_the_tokens_of_transformers(served: Served) -> None:
    assert stream_all(served) == served.expected


def test_streams_go_on_as_if_nothing_had_happened_when_the_worker_is_killed(served: Served) -> None:
    before = served.service.worker().pid
    assert stream_all(served, kill_at=8) == served.expected
    assert served.service.worker().pid != before
    assert "its weights were kept" in served.service.log()  # not read, packed and proven once more


def test_the_layer_for_one_token_more_guesses_for_a_stream_alone(served: Served, client: openai.OpenAI) -> None:
    """How often that pays is measured, so the number differs; whether guesses prove right is tested beside the head."""
    client.completions.create(
        model=NAME, prompt=served.prompts[3], max_tokens=80, temperature=0, extra_body={"ignore_eos": True}
    )
    wait_until(lambda: num_drafted(served.service) > 0, 30, "no tokens were drafted")
    assert "MTP head is not used" not in served.service.log()


def num_drafted(service: RunningService) -> float:
    metrics = service.http().get("/metrics").text
    return max(map(float, re.findall(r"^omni:spec_decode_num_draft_tokens_total.* (\S+)$", metrics, re.MULTILINE)))


def test_tools_are_called_in_its_own_markup(client: openai.OpenAI) -> None:
    options = {"model": NAME, "messages": ASK, "tools": [TOOL], "tool_choice": "required"}
    with client.chat.completions.stream(**options, parallel_tool_calls=False, seed=1) as stream:
        texts = [event.delta for event in stream if event.type == "content.delta"]
        whole = stream.get_final_completion().choices[0]
    assert "".join(texts) == "" and whole.finish_reason == "tool_calls"
    [call] = whole.message.tool_calls
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    results = [whole.message, {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}]
    again = client.chat.completions.create(model=NAME, messages=[*ASK, *results], max_tokens=4)
    assert again.usage.completion_tokens == 4


def test_thinking_is_off_until_it_is_asked_for(client: openai.OpenAI) -> None:
    options = {"model": NAME, "messages": ASK, "max_tokens": 6, "extra_body": {"ignore_eos": True}}
    plain = client.chat.completions.create(**options)
    assert plain.usage.completion_tokens_details.reasoning_tokens == 0
    thinking = client.chat.completions.create(**options, reasoning_effort="high")
    assert thinking.usage.completion_tokens_details.reasoning_tokens == 6
    assert thinking.choices[0].message.content == ""


def test_a_conversation_that_its_format_cannot_express_is_a_400(client: openai.OpenAI) -> None:
    orphan = [*ASK, {"role": "tool", "tool_call_id": "none", "content": "21"}]
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=NAME, messages=orphan)
    assert refused.value.param == "messages"
