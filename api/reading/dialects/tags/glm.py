"""`<arg_key>` and `<arg_value>` in turns: GLM 4.5 to 4.7, Spark 2.5, Ling 3, Laguna; Hunyuan 3."""

import re

from api.reading.dialects.tags.tag_dialect import tag_dialect
from api.reading.dialects.tags.tag_form import BREAK, Tag, TagForm, Writing


def _parameter(key: str, key_end: str, value: str) -> Tag:
    return Tag(key, value, re.compile(rf"{key}(?P<name>[^<]+){key_end}\s*{value}"), stops="")


def _glm(newline: str, spare: str) -> TagForm:
    """`newline`: between tags; `spare`: where some of the models leave it out."""
    return TagForm(
        opening=None,
        closing=None,
        call=Tag(
            "<tool_call>",
            ">",
            re.compile(r"<tool_call>\s*(?P<name>[^\s<>{}]+)\s*(?=<arg_key>|</tool_call>)"),
            stops="{",
        ),
        call_end="</tool_call>",
        parameter=_parameter("<arg_key>", "</arg_key>", "<arg_value>"),
        parameter_end="</arg_value>",
        writing=Writing(
            call=f"{{name}}{newline}",
            parameter=f"<arg_key>{{name}}</arg_key>{newline}<arg_value>",
            value_end=spare,
            call_end=f"{spare}</tool_call>",
            between=newline,
            unnameable="<",
        ),
    )


MARK = ":opensource"  # at the end of each of Hunyuan's tags
HUNYUAN_FORM = TagForm(
    opening=f"<tool_calls{MARK}>",
    closing=f"</tool_calls{MARK}>",
    call=Tag(
        f"<tool_call{MARK}>",
        ">",
        re.compile(rf"<tool_call{MARK}>\s*(?P<name>[^\s<>{{}}]+)\s*<tool_sep{MARK}>"),
        stops="{",
    ),
    call_end=f"</tool_call{MARK}>",
    parameter=_parameter(f"<arg_key{MARK}>", f"</arg_key{MARK}>", f"<arg_value{MARK}>"),
    parameter_end=f"</arg_value{MARK}>",
    writing=Writing(
        call=f"\n<tool_call{MARK}>{{name}}<tool_sep{MARK}>\n",
        parameter=f"<arg_key{MARK}>{{name}}</arg_key{MARK}>\n<arg_value{MARK}>",
        value_end="\n",
        call_end=f"</tool_call{MARK}>",
        block_end=f"\n</tool_calls{MARK}>",
        unnameable="<",
    ),
)


def _detect_lines(template: str, _: str) -> bool:
    return bool(re.search(r"</arg_key>(\n|\\n)|(\n|\\n)<arg_value>", template))


def _detect_glm(template: str, _: str) -> bool:
    return "<arg_key>" in template


def _detect_hunyuan(template: str, _: str) -> bool:
    return MARK in template and "<arg_key{}>" in template


GLM = tag_dialect("glm", _glm("\n", BREAK), _detect_lines)
GLM47 = tag_dialect("glm47", _glm("", ""), _detect_glm)
HUNYUAN3 = tag_dialect("hunyuan3", HUNYUAN_FORM, _detect_hunyuan)
