"""One example of each dialect that writes calls, or their arguments, as JSON objects."""

from tests.api.reading.dialects.example import Example

HERMES = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
SECTION, SECTION_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, SEPARATOR, CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
KIMI = "<|tool_calls_section_begin|>"
KIMI_END = "<|tool_calls_section_end|>"
HARMONY = "<|channel|>commentary to=functions."
JSON = " <|constrain|>json<|message|>"
OBJECTS = {
    "harmony": Example(
        written=f'{HARMONY}get_weather{JSON}{{"city": "Paris"}}<|call|>{HARMONY}now{JSON}{{}}<|call|>',
        parts=(
            *(HARMONY, "f", JSON, "<|message|>", '{"a": [1]}', '"{}"', "<|call|>", "<|end|>", "<|start|>assistant"),
            *("<|channel|>commentary to=python", "hi", " ", "{", '{"a": x', "<|ca", "<|channel|>com"),
        ),
        before_text="<|channel|>final<|message|>",
        allowed=f'{HARMONY}get_weather{JSON}{{"city": "Rome"}}',
    ),
    "deepseek_v3": Example(
        written=(
            f'{SECTION}{CALL}function{SEPARATOR}get_weather\n```json\n{{"city": "Paris"}}\n```{CALL_END}\n'
            f"{CALL}function{SEPARATOR}now\n```json\n{{}}\n```{CALL_END}{SECTION_END}"
        ),
        parts=(
            *(SECTION, CALL, f"function{SEPARATOR}f\n```json\n", '{"a": [1]}', '"{}"', "\n```", CALL_END, SECTION_END),
            *(f"{CALL}function{SEPARATOR}f\n```json\n", "hi", " ", "{", '{"a": x', "<｜tool"),
        ),
        allowed=(
            f'{SECTION}{CALL}function{SEPARATOR}get_weather\n```json\n{{"city": "Rome"}}\n```{CALL_END}{SECTION_END}'
        ),
    ),
    "deepseek_v31": Example(
        written=(
            f'{SECTION}{CALL}get_weather{SEPARATOR}{{"city": "Paris"}}{CALL_END}'
            f"{CALL}now{SEPARATOR}{{}}{CALL_END}{SECTION_END}"
        ),
        parts=(
            *(SECTION, CALL, f"f{SEPARATOR}", '{"a": [1]}', '"{}"', CALL_END, SECTION_END, f"{CALL}f{SEPARATOR}{{}}"),
            *("hi", " ", "\n", "{", '{"a": x', "<｜tool"),
        ),
        allowed=f'{SECTION}{CALL}get_weather{SEPARATOR}{{"city": "Rome"}}{CALL_END}{SECTION_END}',
    ),
    "kimi_k2": Example(
        written=(
            f'{KIMI}<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{{"city": "Paris"}}'
            "<|tool_call_end|><|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|>"
            f"{KIMI_END}"
        ),
        parts=(
            *(KIMI, KIMI_END, "<|tool_call_begin|>", "functions.f:0<|tool_call_argument_begin|>", "<|tool_call_end|>"),
            *(
                "<|tool_call_begin|>f<|tool_call_argument_begin|>",
                '{"a": [1]}',
                '"{}"',
                "hi",
                " ",
                "{",
                '{"a": x',
                "<|",
            ),
        ),
        allowed=(
            f'{KIMI}<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{{"city": "Rome"}}'
            f"<|tool_call_end|>{KIMI_END}"
        ),
    ),
    "solar": Example(
        written=(
            "<|tool_calls|><|tool_call:begin|>a1b2c3d4e5<|tool_call:name|>get_weather<|tool_call:args|>"
            '{"city": "Paris"}<|tool_call:end|><|tool_call:begin|>a1b2c3d4e6<|tool_call:name|>now<|tool_call:args|>{}'
            "<|tool_call:end|><|calls|>"
        ),
        parts=(
            *("<|tool_calls|>", "<|calls|>", "<|tool_call:begin|>", "a1", "<|tool_call:name|>f<|tool_call:args|>"),
            *('{"a": [1]}', '"{}"', "<|tool_call:end|>", "hi", " ", "{", '{"a": x', "<|tool"),
        ),
        allowed=(
            '<|tool_calls|><|tool_call:begin|>a1b2c3d4e5<|tool_call:name|>get_weather<|tool_call:args|>{"city": "Rome"}'
            "<|tool_call:end|>"
        ),
    ),
    "functionary_v31": Example(
        written='<function=get_weather>{"city": "Paris"}</function><function=now>{}</function>',
        parts=("<function=", "f>", "</function>", '{"a": [1]}', '"{}"', "hi", " ", "{", '{"a": x', "<fun", "</fun"),
        allowed='<function=get_weather>{"city": "Rome"}</function>',
    ),
    "hermes": Example(
        written=HERMES + "\n" + HERMES,
        parts=(
            *("<tool_call>", "</tool_call>", HERMES, '{"name": "f", "arguments": {"a": "x"}}'),
            *("}", "<tool", "\n", "hi", '"'),
        ),
        allowed='<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>',
    ),
    "llama3_json": Example(
        written='{"name": "get_weather", "parameters": {"city": "Paris", "days": 3}}',
        parts=(
            *("<|python_tag|>", '{"name": "f", "parameters": {"a": 1}}', '{"name": "f", '),
            *(";", "{", "}", " ", "<|py"),
        ),
        allowed='{"name": "walk", "parameters": {"root": {"next": {"next": null}}}}',
    ),
    "mistral": Example(
        written=(
            '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "now", "arguments": {}}]'
        ),
        parts=("[TOOL_CALLS]", "[", '{"name": "f", "arguments": {}}', "]", ",", "f[ARGS]", "{}", '{"a": 1', " ", "hi"),
        allowed='[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Rome"}}]',
    ),
    "mistral_args": Example(
        written='[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]now[ARGS]{}',
        parts=("[TOOL_CALLS]", "f[ARGS]", "{}", '{"a": [1', "]}", " ", "hi", "[TOOL", "[CALL_ID]x"),
        allowed='[TOOL_CALLS]get_weather[ARGS]{"city": "Rome"}',
    ),
    "cohere": Example(
        written=(
            '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris"}},'
            '\n    {"tool_call_id": "1", "tool_name": "now", "parameters": {}}\n]<|END_ACTION|>'
        ),
        parts=(
            *(
                "<|START_ACTION|>",
                "<|END_ACTION|>",
                "[",
                "]",
                '{"tool_call_id": "0", "tool_name": "f", "parameters": {}}',
            ),
            *(", ", "\n", "{", "hi", '"', "<|"),
        ),
        allowed=(
            '<|START_ACTION|>[\n    {"tool_call_id": "12", "tool_name": "get_weather", "parameters": {"city": "Rome"}}'
            "\n]<|END_ACTION|>"
        ),
    ),
    "command_r": Example(
        written=(
            'Action:\n```json\n[\n    {\n        "tool_name": "get_weather",\n        "parameters": {\n'
            '            "city": "Paris"\n        }\n    },\n    {"tool_name": "now", "parameters": {}}\n]```'
        ),
        parts=(
            *("Action:\n```json\n", "Action: ```json\n", "```", "[", "]", '{"tool_name": "f", "parameters": {}}'),
            *(", ", "\n", "{", "hi", '"', "Action:"),
        ),
        allowed='Action:\n```json\n[\n{"tool_name": "get_weather", "parameters": {"city": "Rome"}}\n]```',
    ),
    "granite3": Example(
        written=(
            '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "now", "arguments": {}}]'
        ),
        parts=("<|tool_call|>", "<tool_call>", "[", "]", '{"name": "f", "arguments": {"a": 1}}', ", ", "{", "hi", "<|"),
        allowed='<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Rome"}}]',
    ),
    "gigachat3": Example(
        written=(
            '<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "get_weather", "arguments": {"city": "Paris"}}'
        ),
        parts=(
            *("<|message_sep|>\n\nfunction call<|role_sep|>\n", "function call<|role_sep|>\n", "<|message_sep|>"),
            *('{"name": "f", "arguments": {"a": 1}}', "{", "function", "hi", "\n"),
        ),
        allowed=(
            '<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "get_weather", "arguments": {"city": "Rome"}}'
        ),
    ),
    "gigachat31": Example(
        written='<|function_call|>{"name": "get_weather", "arguments": {"city": "Paris"}}',
        parts=("<|function_call|>", '{"name": "f", "arguments": {"a": 1}}', "{", "<|fun", "hi", "\n"),
        allowed='<|function_call|>{"name": "get_weather", "arguments": {"city": "Rome"}}',
    ),
    "granite_20b": Example(
        written='<function_call> {"name": "get_weather", "arguments": {"city": "Paris"}}',
        parts=("<function_call>", '{"name": "f", "arguments": {"a": 1}}', "{", "<fun", "hi", "\n"),
        allowed='<function_call> {"name": "get_weather", "arguments": {"city": "Rome"}}',
    ),
    "mistral_ids": Example(
        written='[TOOL_CALLS]get_weather[CALL_ID]abcdef012[ARGS]{"city": "Paris"}[TOOL_CALLS]now[CALL_ID]x[ARGS]{}',
        parts=("[TOOL_CALLS]", "f[ARGS]", "{}", '{"a": [1', "]}", " ", "hi", "[TOOL", "f[CALL_ID]x[ARGS]"),
        allowed='[TOOL_CALLS]get_weather[CALL_ID]abcdef012[ARGS]{"city": "Rome"}',
    ),
    "xlam": Example(
        written='[{"name": "get_weather", "arguments": {"city": "Paris"}}, {"name": "now", "arguments": {}}]',
        parts=("[", "]", '{"name": "f", "arguments": {"a": 1}}', '{"name": "f"}', ", ", "{", "}", " ", "hi"),
        allowed='[{"name": "get_weather", "arguments": {"city": "Rome"}}]',
    ),
}
