"""One example of each dialect that writes calls as code, and of those that write a list between two markers."""

from tests.api.reading.dialects.example import Example

WEATHER = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
ROME = '{"name": "get_weather", "arguments": {"city": "Rome"}}'
NOW = '{"name": "now", "arguments": {}}'
PARTS = (
    WEATHER,
    NOW,
    "[",
    "]",
    ",",
    "\n",
    "{",
    "}",
    '{"name": "f", ',
    '{"name": "f", "arguments": {"a": [1',
    " ",
    "hi",
)


def _listed(opening: str, closing: str) -> Example:
    return Example(
        written=f"{opening}[{WEATHER}, {NOW}]{closing}",
        parts=(opening, closing, *PARTS, opening[:4], closing[:5] or "]"),
        allowed=f"{opening}[{ROME}]{closing}",
    )


def _gemma(opening: str, mark: str, closing: str) -> Example:
    return Example(
        written=f"{opening}call:get_weather{{city:{mark}Paris{mark},days:3}}{closing}{opening}call:now{{}}{closing}",
        parts=(
            *[opening, closing, mark, "call:f{", "call:", "{", "}", "[", "]", ",", ":", "a:", "1", "true", " ", "\n"],
            *[mark[:3], opening[:5], closing[:4], '"', "x", f"a:{mark}b{mark}"],
        ),
        allowed=f"{opening}call:get_weather{{city:{mark}Rome{mark}}}{closing}",
    )


def _python(opening: str, joint: str, closing: str) -> Example:
    return Example(
        written=f"{opening}get_weather(city='Paris', days=3){joint}now(){closing}",
        parts=(
            *[
                opening,
                closing,
                "f(",
                "a=",
                "'",
                '"',
                "'b'",
                ")",
                "[",
                "]",
                ",",
                "1",
                "True",
                "\\",
                "\n",
                " ",
                "{",
                "}",
            ],
            *["f(a=1)", "x", ":", opening[:6], closing[:6], "(", '{"name": "f", "parameters": {"a": 1}}'],
        ),
        allowed=f"{opening}get_weather(city='Rome'){closing}",
    )


LITERALS: dict[str, Example] = {
    "lfm2": _python("<|tool_call_start|>[", ", ", "]<|tool_call_end|>"),
    "olmo3": _python("<function_calls>\n", "\n", "\n</function_calls>"),
    "pythonic": _python("[", ", ", "]"),
    "llama4": Example(
        written='<|python_start|>{"name": "get_weather", "parameters": {"city": "Paris"}}<|python_end|>',
        parts=(
            *["<|python_start|>", "<|python_end|>", '{"name": "f", "parameters": {"a": 1}}', "[f(a='b')]", "["],
            *["]", ",", "{", " ", "\n", "<|py", "hi", "[f(", ")", "'"],
        ),
        allowed='{"name": "get_weather", "parameters": {"city": "Rome"}}',
    ),
    "gemma4": _gemma("<|tool_call>", '<|"|>', "<tool_call|>"),
    "function_gemma": _gemma("<start_function_call>", "<escape>", "<end_function_call>"),
    "apertus": Example(
        written='<|tools_prefix|>[{"get_weather": {"city": "Paris"}}, {"now": {}}]<|tools_suffix|>',
        parts=(
            *["<|tools_prefix|>", "<|tools_suffix|>", '{"f": {"a": 1}}', '{"f', '": ', "[", "]", ",", "{", "}", " "],
            *["<|tools", "hi", "1", '"', '{"f": 1}'],
        ),
        allowed='<|tools_prefix|>[{"walk": {"root": {"next": {"next": null}}}}]<|tools_suffix|>',
    ),
    "minimax_m1": Example(
        written=f"<tool_calls>\n{WEATHER}\n{NOW}\n</tool_calls>",
        parts=("<tool_calls>", "</tool_calls>", *PARTS, "<tool", "</tool_"),
        allowed=f"<tool_calls>\n{ROME}\n</tool_calls>",
    ),
    "nemotron_v2": _listed("<TOOLCALL>", "</TOOLCALL>"),
    "phi4": _listed("<|tool_call|>", "<|/tool_call|>"),
    "functools": Example(
        written=f"functools[{WEATHER}, {NOW}]",
        parts=("functools[", "<|tool_call|>", "<|/tool_call|>", *PARTS, "func"),
        allowed=f"functools[{ROME}]",
    ),
    "tool_calls": _listed("<tool_calls>", "</tool_calls>"),
}
