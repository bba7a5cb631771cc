"""One example of each dialect that writes calls as tags."""

from api.reading.dialects.tags.deepseek_v32 import DSML
from tests.api.reading.dialects.example import Example

S = ":opensource"
M3 = "]<]minimax[>["
DEEPSEEK = (
    f'\n\n<{DSML}function_calls>\n<{DSML}invoke name="get_weather">\n'
    f'<{DSML}parameter name="city" string="true">Paris "X" <b></{DSML}parameter>\n'
    f'<{DSML}parameter name="days" string="false">3</{DSML}parameter>\n'
    f'</{DSML}invoke>\n<{DSML}invoke name="now">\n\n</{DSML}invoke>\n</{DSML}function_calls>'
)


def example(opening: str, first: str, city: str, second: str, closing: str, *parts: str) -> Example:
    """`first`: a call of get_weather with `{}` for its parameters; `city`: one parameter, with `{}` for the value."""
    weather, rome = first.format(city.format("Paris")), first.format(city.format('Ro</me"'))
    return Example(
        written=f"{opening}{weather}{second}{closing}",
        parts=(f"{opening}{weather}{closing}", opening, weather, city, closing, "<", ">", "\n", "1", "hi", *parts),
        allowed=f"{opening}{rome}{closing}",
    )


def dsml(block: str) -> Example:
    return example(
        f"\n\n<{DSML}{block}>\n",
        f'<{DSML}invoke name="get_weather">\n{{}}</{DSML}invoke>\n',
        f'<{DSML}parameter name="city" string="true">{{}}</{DSML}parameter>\n',
        f'<{DSML}invoke name="now">\n\n</{DSML}invoke>\n',
        f"</{DSML}{block}>",
        *(f"<{DSML}{block}>", f'<{DSML}invoke name="f">', f'<{DSML}parameter name="a" string="true">'),
        *(f'<{DSML}parameter name="b" string="false">', f"</{DSML}parameter>", f"</{DSML}invoke>"),
    )


def functions(wrapper: str, newline: str) -> Example:
    return example(
        f"<{wrapper}>\n",
        "<function=get_weather>\n{}</function>\n",
        f"<parameter=city>{newline}{{}}{newline}</parameter>\n",
        f"</{wrapper}>\n<{wrapper}>\n<function=now>\n</function>\n",
        f"</{wrapper}>",
        *("<function=f>", "<parameter=a>", "</parameter>", "</function>", "<function", "</param", "[1]", '"'),
    )


def invokes(block: str, prefix: str, lead: str = "") -> Example:
    return example(
        f"{lead}<{block}>\n",
        f'<{prefix}invoke name="get_weather">\n{{}}</{prefix}invoke>\n',
        f'<{prefix}parameter name="city">{{}}</{prefix}parameter>\n',
        f'<{prefix}invoke name="now">\n</{prefix}invoke>\n',
        f"</{block}>",
        *(f'<{prefix}invoke name="f">', f'<{prefix}parameter name="a">', f"</{prefix}parameter>", f"</{prefix}invoke>"),
    )


def glm(newline: str) -> Example:
    return example(
        "<tool_call>",
        f"get_weather{newline}{{}}",
        f"<arg_key>city</arg_key>{newline}<arg_value>{{}}</arg_value>{newline}",
        f"</tool_call>{newline}<tool_call>now{newline}",
        "</tool_call>",
        *("f", "<arg_key>a</arg_key>", "<arg_value>", "</arg_value>", "<tool_call>f<arg_key>", '{"a": 1}'),
    )


TAGS = {
    "deepseek_v32": dsml("function_calls"),
    "deepseek_v4": dsml("tool_calls"),
    "qwen3_xml": functions("tool_call", "\n"),
    "seed_oss": functions("seed:tool_call", ""),
    "minimax_m2": invokes("minimax:tool_call", "", "\n"),
    "minimax_m3": example(
        f"{M3}<tool_call>\n",
        f'{M3}<invoke name="get_weather">{{}}{M3}</invoke>\n',
        f"{M3}<city>{{}}{M3}</city>",
        f'{M3}<invoke name="now">{M3}</invoke>\n',
        f"{M3}</tool_call>",
        *(f'{M3}<invoke name="f">', f"{M3}<a>", f"{M3}</a>", f"{M3}<item>", f"{M3}</item>", M3, f"{M3}</invoke>"),
    ),
    "muse": invokes("atem:function_calls", "atem:"),
    "glm": glm("\n"),
    "glm47": glm(""),
    "hunyuan3": example(
        f"<tool_calls{S}>\n",
        f"<tool_call{S}>get_weather<tool_sep{S}>\n{{}}</tool_call{S}>\n",
        f"<arg_key{S}>city</arg_key{S}>\n<arg_value{S}>{{}}</arg_value{S}>\n",
        f"<tool_call{S}>now<tool_sep{S}>\n</tool_call{S}>\n",
        f"</tool_calls{S}>",
        *(f"<tool_call{S}>f<tool_sep{S}>", f"<arg_key{S}>a</arg_key{S}>", f"<arg_value{S}>", f"</arg_value{S}>"),
    ),
    "kimi_k3": example(
        "<|open|>tools<|sep|>",
        '<|open|>call tool="get_weather" index="1"<|sep|>{}<|close|>call<|sep|>',
        '<|open|>argument key="city" type="string"<|sep|>{}<|close|>argument<|sep|>',
        '<|open|>call tool="now" index="2"<|sep|><|close|>call<|sep|>',
        "<|close|>tools<|sep|>",
        *('<|open|>argument key="a" type="number"<|sep|>', "<|close|>argument<|sep|>", "<|open|>", "<|sep|>"),
    ),
    "minicpm5": example(
        "",
        '<function name="get_weather">{}</function>',
        '<param name="city"><![CDATA[{}]]></param>',
        '\n<function name="now"></function>',
        "",
        *('<function name="f">', '<param name="a">', "</param>", "<![CDATA[", "]]>", "</function>"),
    ),
}
