"""One example of each dialect that writes calls, or their arguments, as JSON objects."""

from tests.api.reading.dialects.example import Example

HERMES = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
OBJECTS = {
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
}
