"""Ollama's requests as chat and completion requests."""

import time

import pytest

from api.ollama.embeddings import prepare_embed, prepare_embedding
from api.ollama.prepare import chat_request, prepare_chat, prepare_generate
from api.schema.ollama import (
    OllamaChatRequest,
    OllamaEmbeddingsRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
)
from api.schema.parse import parse
from common.errors import ContextLengthExceeded, InvalidRequest
from tests.api import cards
from tests.api.calls import call_of
from tests.api.conftest import THINKING
from tests.growth import is_linear
from tests.pictures import data_url

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def chat(encoder, **body):
    return prepare_chat(call_of(OllamaChatRequest, {"model": "tiny", "messages": HI} | body, encoder))


def generate(encoder, **body):
    return prepare_generate(call_of(OllamaGenerateRequest, {"model": "tiny", "prompt": "Hi"} | body, encoder))


def prompt_of(prepared, encoder):
    return encoder.decode(prepared.requests[0].prompt_ids)


def told(*messages):
    """The chat messages that these stand for."""
    return chat_request(parse(OllamaChatRequest, {"model": "tiny", "messages": list(messages)})).messages


def test_options_are_sampling_fields(encoder):
    options = {
        "temperature": 0, "top_k": 40.0, "top_p": 0.9, "min_p": "0.1", "seed": 7, "num_predict": 5, "stop": ["x"],
        "repeat_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.25, "num_ctx": 4096, "num_gpu": 1,
        "mirostat": 0, "repeat_last_n": 64, "unknown": "x",
    }  # fmt: skip
    sampling = chat(encoder, options=options).requests[0].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, sampling.seed) == (0, 40, 0.9, 0.1, 7)
    assert (sampling.max_tokens, sampling.stop, sampling.repetition_penalty) == (5, ("x",), 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.5, 0.25)


@pytest.mark.parametrize("options", [{}, {"num_predict": -1}, {"num_predict": -2}, {"num_predict": 0}])
def test_an_answer_may_be_as_long_as_the_context_unless_it_is_limited(options, encoder):
    [request] = chat(encoder, options=options).requests
    assert request.sampling.max_tokens == encoder.card.max_model_len - len(request.prompt_ids)


def test_a_seed_of_minus_one_is_any(encoder):
    assert len({chat(encoder, options={"seed": -1}).requests[0].sampling.seed for _ in range(3)}) == 3


@pytest.mark.parametrize(
    ("body", "is_streamed"),
    [({}, True), ({"stream": None}, True), ({"stream": True}, True), ({"stream": False}, False)],
)
def test_an_answer_is_streamed_unless_the_request_says_otherwise(body, is_streamed, encoder):
    assert chat(encoder, **body).options.stream == generate(encoder, **body).options.stream == is_streamed


def test_calls_and_their_results_are_told_apart_by_id_by_name_or_by_order():
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    other = {"id": "x", "function": {"name": "sub", "arguments": {}}}
    messages = told(
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [call, other, call]},
        {"role": "tool", "content": "1", "tool_name": "sub"},
        {"role": "tool", "content": "2", "name": "add"},
        {"role": "tool", "content": "3"},
        {"role": "tool", "content": "4", "tool_call_id": "y"},
    )
    assert messages[1].reasoning_content == "Hm."
    assert [(said.id, said.function.arguments) for said in messages[1].tool_calls] == [
        ("call_1", '{"a": 1}'), ("x", "{}"), ("call_3", '{"a": 1}'),
    ]  # fmt: skip
    assert [(said.content, said.tool_call_id) for said in messages[2:]] == [
        ("1", "x"), ("2", "call_1"), ("3", "call_3"), ("4", "y"),
    ]  # fmt: skip


def test_results_find_their_calls_in_linear_time():
    def seconds(number: int) -> float:
        calls = [{"function": {"name": f"f{place}"}} for place in range(number)]
        results = [{"role": "tool", "content": "", "tool_name": "other"}] * number
        began = time.process_time()
        found = told({"role": "assistant", "tool_calls": calls}, *results)
        spent = time.process_time() - began
        assert [message.tool_call_id for message in found[1:]] == [f"call_{place}" for place in range(1, number + 1)]
        return spent

    assert is_linear(seconds, 1000)


def test_images_come_as_base64_or_as_data_urls(encoder_of):
    picture = data_url().partition(",")[2]
    encoder = encoder_of(accepts_images=True, image_token="<image>")
    for image in (picture, f"data:image/png;base64,{picture}"):
        asked = chat(encoder, messages=[{"role": "user", "content": "What?", "images": [image]}])
        assert asked.requests[0].images == (f"data:image/png;base64,{picture}",)
        assert generate(encoder, images=[image]).requests[0].images == asked.requests[0].images
    with pytest.raises(InvalidRequest, match="could not be read"):
        chat(encoder, messages=[{"role": "user", "content": "What?", "images": ["QUJD"]}])


def test_tools_are_offered_and_their_form_is_stored(encoder):
    assert chat(encoder, tools=[TOOL]).meta.reading.tool_dialect == "hermes"
    assert chat(encoder, tools=[]).meta.reading.tool_dialect is None
    assert "Adds." in prompt_of(chat(encoder, tools=[TOOL]), encoder)
    assert chat(encoder, tools=[TOOL], tool_choice="required").meta.reading.must_call


@pytest.mark.parametrize(("format", "holds"), [("json", '{"type":"object",'), (SCHEMA, '"integer"')])
def test_a_format_is_a_grammar(format, holds, encoder):
    for ask in (chat, generate):
        assert holds in ask(encoder, format=format).requests[0].sampling.grammar
        assert ask(encoder, format="").requests[0].sampling.grammar is None


@pytest.mark.parametrize(
    ("think", "ends", "is_shown"),
    [
        (None, "assistant\n", True),
        (True, "assistant\n", True),
        (False, "</think>", False),
        ("high", "assistant\n", True),
    ],
)
def test_think_is_the_switch_of_the_template(think, ends, is_shown, encoder_of):
    encoder = encoder_of(chat_template=THINKING)
    for ask in (chat, generate):
        prepared = ask(encoder, think=think)
        assert prompt_of(prepared, encoder).endswith(ends)
        assert prepared.meta.reading.shows_reasoning == is_shown


def test_a_begun_answer_is_continued(encoder):
    assert prompt_of(chat(encoder, messages=[*HI, {"role": "assistant", "content": "Hel"}]), encoder).endswith("Hel")


def test_a_prompt_is_a_conversation_with_its_system_message(encoder):
    asked = chat(encoder, messages=[{"role": "system", "content": "Be kind."}, *HI])
    assert generate(encoder, system="Be kind.").requests[0].prompt_ids == asked.requests[0].prompt_ids


def test_a_raw_prompt_and_one_with_a_suffix_have_no_template():
    encoder = cards.encoder(fim=True)
    raw = generate(encoder, raw=True, prompt="<|im_start|>Hi", options={"stop": ["x"], "num_predict": 3})
    assert prompt_of(raw, encoder) == "<|im_start|>Hi" and raw.meta.is_raw
    assert (raw.requests[0].sampling.stop, raw.requests[0].sampling.max_tokens) == (("x",), 3)
    filled = generate(encoder, prompt="a(", suffix=")")
    assert prompt_of(filled, encoder) == "<|fim_prefix|>a(<|fim_suffix|>)<|fim_middle|>"


def test_logprobs_are_asked_for(encoder):
    for body in ({}, {"raw": True}):
        asked = generate(encoder, logprobs=True, top_logprobs=2, **body)
        assert asked.requests[0].sampling.logprobs == 2 and asked.meta.logprobs
        assert generate(encoder, top_logprobs=2, **body).requests[0].sampling.logprobs is None


@pytest.mark.parametrize(
    ("ask", "body", "param"),
    [
        (chat, {"options": {"temperature": 3}}, "options.temperature"),
        (chat, {"options": {"stop": [""]}}, "options.stop[0]"),
        (chat, {"format": {"type": "x"}}, "format.type"),
        (chat, {"think": "much"}, "think"),
        (chat, {"messages": [{"role": "user", "content": "x" * 9000}]}, "messages"),
        (chat, {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        (chat, {"messages": [{"role": "user", "content": "x", "images": ["QUJD"]}]}, "messages"),
        (generate, {"prompt": "x" * 9000}, "prompt"),
        (generate, {"images": ["QUJD"]}, "prompt"),
        (generate, {"template": "{{ .Prompt }}"}, "template"),
        (generate, {"suffix": "x"}, "suffix"),
        (generate, {"raw": True, "images": ["QUJD"]}, "images"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_ollama_s_names(ask, body, param, encoder):
    with pytest.raises(InvalidRequest) as refused:
        ask(encoder, **body)
    assert refused.value.param == param
    for name in ("response_format", "messages[0].content"):
        assert name not in refused.value.message


@pytest.mark.parametrize("body", [{"template": ""}, {"context": [1, 2]}, {"keep_alive": "5m"}, {"keep_alive": -1}])
def test_what_changes_nothing_here_is_taken(body, encoder):
    assert generate(encoder, **body)


def embed(encoder, **body):
    return prepare_embed(call_of(OllamaEmbedRequest, {"model": "tiny"} | body, encoder))


def test_texts_to_embed_are_cut_to_what_the_model_takes_unless_they_must_not_be():
    encoder = cards.encoder(num_dimensions=8, adds_bos=True)
    [request] = embed(encoder, input=["Hi", "x" * 500]).requests
    assert request.input_lengths == (3, 100)
    [request] = embed(encoder, input="Hi").requests
    assert request.input_lengths == (3,)
    with pytest.raises(ContextLengthExceeded):
        embed(encoder, input="x" * 500, truncate=False)
    raw = {"model": "tiny", "prompt": "x" * 500}
    assert prepare_embedding(call_of(OllamaEmbeddingsRequest, raw, encoder)).requests[0].input_lengths == (100,)
    with pytest.raises(InvalidRequest) as refused:
        embed(encoder, input="Hi", dimensions=9)
    assert refused.value.param == "dimensions"


def test_a_message_with_the_most_images_may_have_a_text_too():
    [message] = told({"role": "user", "content": "x", "images": ["a"] * 4096})
    assert len(message.content) == 4097
