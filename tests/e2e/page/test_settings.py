"""The settings of a conversation: every sampling field with its default, formats, tools by paste, presets."""

import json

import pytest

from api.request.sampling import DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE
from api.schema.base import Sampling
from tests.e2e.test_page import say, until_done

# What the API takes beside these is not for a page: tokens by number, how the answer travels, when it is due.
NOT_SHOWN = {"stop_token_ids", "ignore_eos", "n", "stream", "stream_options", "background", "background_options"}
NOT_SHOWN |= {"not_before", "priority", "timeout", "keep_alive", "user", "metadata", "safety_identifier", "model"}
NOT_SHOWN |= {"prompt_cache_key"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}


@pytest.fixture
def panel(page, backend):
    page.goto(backend.url)
    page.wait_for_selector("#model option", state="attached")
    page.click("#open-panel")
    for summary in page.locator("#panel summary").all():
        summary.click()
    return page


def sent(page, backend, text="hi"):
    say(page, text)
    until_done(page)
    return backend.bodies[-1]


def test_each_sampling_field_of_the_api_has_a_place_that_shows_its_default(panel):
    shown = panel.evaluate("async () => (await import('/static/chat/options.js')).OPTIONS.map(({ name }) => name)")
    assert {*Sampling.model_fields} - NOT_SHOWN == {*shown} - {
        "system",
        "reasoning_effort",
        "schema",
        "tools",
        "overflow",
    }
    assert panel.get_attribute("#option-temperature", "placeholder") == str(DEFAULT_TEMPERATURE)
    assert panel.get_attribute("#option-max_tokens", "placeholder") == str(DEFAULT_MAX_TOKENS)


def test_what_is_set_is_sent_and_nothing_else(panel, backend):
    numbers = {"top_k": 40, "min_p": 0.05, "presence_penalty": -1, "frequency_penalty": 0.5}
    numbers |= {"repetition_penalty": 1.1, "min_tokens": 3}
    for name, value in numbers.items():
        panel.fill(f"#option-{name}", str(value))
    panel.fill("#option-logit_bias", '{"7": -100}')
    panel.fill("#option-stop", " ")
    panel.select_option("#option-reasoning_effort", "low")
    panel.select_option("#option-service_tier", "flex")
    body = sent(panel, backend)
    rest = {"logit_bias": {"7": -100}, "stop": [" "], "reasoning_effort": "low", "service_tier": "flex"}
    assert {name: body[name] for name in body if name not in {"model", "messages"} and "stream" not in name} == (
        numbers | rest | {"background": True}
    )
    assert panel.inner_text("#panel summary >> nth=0") == "More sampling · 7 set"
    panel.click("#new-chat")
    assert panel.input_value("#option-top_k") == "40"
    panel.select_option("#preset", "Server's defaults")
    assert {*sent(panel, backend)} == {"model", "messages", "stream", "background", "stream_options"}


TOOLS = [
    (json.dumps([FUNCTION]), [FUNCTION], "get_weather"),
    (json.dumps(FUNCTION), [FUNCTION], "get_weather"),
    (json.dumps({"model": "x", "tools": [FUNCTION]}), [FUNCTION], "get_weather"),
    ('{"tools": [{"name": "get_weather", "inputSchema": {"type": "object"}}]}', [FUNCTION], "get_weather"),
    ("", None, ""),
    ('[{"name": "a"}, {}]', None, 'Tool 2 has no name. Give each tool a "name"'),
    ("[{]", None, "The tools must be JSON: "),
]


def test_tools_are_pasted_in_any_of_their_forms(panel, backend):
    for text, tools, told in TOOLS:
        panel.fill("#option-tools", text)
        assert panel.inner_text("#error-tools").startswith(told)
        assert sent(panel, backend).get("tools") == tools


FORMATS = [
    ({}, {"type": "json_object"}),
    ({"type": "json_object"}, {"type": "json_object"}),
    (SCHEMA, {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}),
    (
        {"name": "city", "schema": SCHEMA},
        {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": SCHEMA}},
    ),
]


def test_a_schema_is_what_the_answer_keeps_to(panel, backend):
    for text, sent_format in FORMATS:
        panel.fill("#option-schema", json.dumps(text))
        assert sent(panel, backend)["response_format"] == sent_format
    panel.fill("#option-schema", "[1]")
    assert panel.inner_text("#error-schema").startswith("The schema must be a JSON object")
    assert sent(panel, backend)["response_format"] == FORMATS[-1][1], "what was right last is still used"


def test_a_preset_is_saved_chosen_and_deleted(panel, backend):
    panel.fill("#option-system", "Be brief.")
    assert panel.input_value("#preset") == ""
    panel.click("text=Save as")
    panel.fill("#preset-name", "Precise")
    panel.press("#preset-name", "Enter")
    assert panel.is_visible("#preset-name"), "the page's own presets keep their names"
    panel.fill("#preset-name", "Short")
    panel.press("#preset-name", "Enter")
    assert panel.input_value("#preset") == "Short"
    panel.select_option("#preset", "Creative")
    assert (panel.input_value("#option-system"), panel.input_value("#option-temperature")) == ("", "1")
    panel.reload()
    panel.click("#open-panel")
    panel.select_option("#preset", "Short")
    assert sent(panel, backend)["messages"][0] == {"role": "system", "content": "Be brief."}
    panel.click("#panel button:text-is('Delete')")
    assert (panel.input_value("#preset"), panel.input_value("#option-system")) == ("", "Be brief.")
    assert panel.evaluate("document.activeElement.id") == "preset"


def test_the_preset_form_closes_without_the_panel(panel):
    panel.fill("#option-system", "Be brief.")
    panel.click("text=Save as")
    panel.press("#preset-name", "Escape")
    assert panel.is_visible("#panel") and panel.evaluate("document.activeElement.id") == "preset"
