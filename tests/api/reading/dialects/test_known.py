"""A model's dialect follows from its chat template and architecture."""

import pytest

from api.reading.dialects.known import DIALECTS, dialect_for, dialect_named


@pytest.mark.parametrize(
    ("template", "architecture", "name"),
    [
        ("{{ '<tool_call>\\n' }}", "qwen3", "hermes"),
        ("'<|start|>assistant<|channel|>analysis<|message|>' + message.thinking", "gpt_oss", "harmony"),
        ("<tool_call><function=x><parameter=", "qwen3_moe", "qwen3_xml"),
        ("<seed:tool_call>\\n<function=x><parameter=", "seed_oss", "seed_oss"),
        ("<tool_call>{name}\n<arg_key>{key}</arg_key>\n<arg_value>", "glm4_moe", "glm"),
        ("'<tool_call>' + name + '<arg_key>' ~ k ~ '</arg_key><arg_value>'", "glm4_moe_lite", "glm47"),
        ("'<arg_key{}>'.format(':opensource')", "hunyuan", "hunyuan3"),
        ("'<minimax:tool_call>'", "minimax_m2", "minimax_m2"),
        ("]<]minimax[>[ ~ '<tool_call>'", "minimax_m3", "minimax_m3"),
        ("'<function name=' <param name=", "minicpm", "minicpm5"),
        ("open_tag('argument') <|open|>", "kimi_k3", "kimi_k3"),
        ("dsml_token = '｜DSML｜' '<' + dsml_token + 'function_calls>'", "llama", "deepseek_v32"),
        ("dsml_token = '｜DSML｜' '<' + dsml_token + 'tool_calls>'", "llama", "deepseek_v4"),
        ("{{ '[TOOL_CALLS] [' }}", "mistral", "mistral"),
        ("[TOOL_CALLS]{{ name }}[ARGS]", "mistral", "mistral_args"),
        ("[TOOL_CALLS]{{ name }}[CALL_ID]{{ id }}[ARGS]", "mistral", "mistral_ids"),
        ("{{ '\"parameters\": ' }} <|python_tag|>", "llama", "llama3_json"),
        (None, "deepseek_v32", "deepseek_v32"),
        ("<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n", "deepseek_v3", "deepseek_v3"),
        ("<｜tool▁call▁begin｜>{{ name }}<｜tool▁sep｜>", "deepseek_v3", "deepseek_v31"),
        ("<|tool_calls_section_begin|><|tool_call_begin|><|tool_call_argument_begin|>", "kimi_k2", "kimi_k2"),
        ("<|tool_call:begin|>{{ id }}<|tool_call:name|>", "solar_open", "solar"),
        ("<function={{ name }}>{{ arguments }}</function>", "llama", "functionary_v31"),
        (None, "llama", None),
        ("{{ messages }}", "llama", None),
    ],
)
def test_the_dialect_is_read_off_the_template(template, architecture, name):
    dialect = dialect_for(template, architecture)
    assert (dialect and dialect.name) == name


def test_each_dialect_is_found_by_its_own_name():
    assert [dialect_named(dialect.name) for dialect in DIALECTS] == list(DIALECTS)
    with pytest.raises(LookupError):
        dialect_named("morse")
