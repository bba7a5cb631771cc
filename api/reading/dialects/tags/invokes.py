"""Calls with `name` attributes: MiniMax M2 and M3 (`<invoke name="f">`), Muse Glimmer, MiniCPM 5."""

import re

from api.reading.dialects.tags.elements import NAME
from api.reading.dialects.tags.tag_dialect import tag_dialect
from api.reading.dialects.tags.tag_form import Tag, TagForm, Writing

FUNCTION, PARAM = '<function name="', '<param name="'
MINICPM_FORM = TagForm(
    opening=None,
    closing=None,
    call=Tag(FUNCTION, '">', re.compile(f'{FUNCTION}(?P<name>[^"\n]+)">')),
    call_end="</function>",
    parameter=Tag(PARAM, '">', re.compile(f'{PARAM}(?P<name>[^"\n]+)">')),
    parameter_end="</param>",
    quotes=("<![CDATA[", "]]>"),
    writing=Writing(
        call='{name}">',
        parameter=f'{PARAM}{{name}}">',
        call_end="</function>",
        between="\n",
        unnameable='"\n',
    ),
)

MARK = "]<]minimax[>["
M3_INVOKE = f'{MARK}<invoke name="'
M3_FORM = TagForm(
    opening=f"{MARK}<tool_call>",
    closing=f"{MARK}</tool_call>",
    call=Tag(M3_INVOKE, '">', re.compile(rf'{re.escape(M3_INVOKE)}(?P<name>[^"\n]+)">')),
    call_end=f"{MARK}</invoke>",
    parameter=Tag(f"{MARK}<", ">", re.compile(rf"{re.escape(MARK)}<(?P<name>{NAME})>")),
    parameter_end=f"{MARK}</{{name}}>",
    elements=MARK,
    writing=Writing(
        call=f'\n{M3_INVOKE}{{name}}">',
        parameter=f"{MARK}<{{name}}>",
        value_end="</{name}>",
        call_end=f"{MARK}</invoke>",
        block_end=f"\n{MARK}</tool_call>",
        unnameable='"/<>\n',
    ),
)


def _form(block: str, prefix: str, lead: str) -> TagForm:
    invoke, parameter = f'<{prefix}invoke name="', f'<{prefix}parameter name="'
    return TagForm(
        opening=f"<{block}>",
        closing=f"</{block}>",
        call=Tag(invoke, '">', re.compile(f'{invoke}(?P<name>[^"\n]+)">')),
        call_end=f"</{prefix}invoke>",
        parameter=Tag(parameter, '">', re.compile(f'{parameter}(?P<name>[^"\n]+)">')),
        parameter_end=f"</{prefix}parameter>",
        writing=Writing(
            call=f'\n{invoke}{{name}}">\n',
            parameter=f'{parameter}{{name}}">',
            value_end="\n",
            call_end=f"</{prefix}invoke>",
            block_end=f"\n</{block}>",
            lead=lead,
            unnameable='"\n',
        ),
    )


def _detect_minimax(template: str, _: str) -> bool:
    return "<minimax:tool_call>" in template


def _detect_m3(template: str, _: str) -> bool:
    return MARK in template and "<tool_call>" in template


def _detect_minicpm(template: str, _: str) -> bool:
    return "<function name=" in template and "<param name=" in template


def _detect_muse(template: str, _: str) -> bool:
    return "<atem:function_calls>" in template


MINIMAX_M2 = tag_dialect("minimax_m2", _form("minimax:tool_call", "", "\n"), _detect_minimax)
# Parameters' tags have their names, each tag has a mark before it, and lists and objects are elements.
MINIMAX_M3 = tag_dialect("minimax_m3", M3_FORM, _detect_m3, further_marks=(MARK, "<tool_call>", "</tool_call>"))
MUSE = tag_dialect("muse", _form("atem:function_calls", "atem:", ""), _detect_muse)
# A string of several lines or with markup is written as CDATA.
MINICPM5 = tag_dialect("minicpm5", MINICPM_FORM, _detect_minicpm)
