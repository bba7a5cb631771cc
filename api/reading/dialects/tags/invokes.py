"""Calls and parameters with `name` attributes: MiniMax M2 (`<invoke name="f">`), Muse Glimmer, MiniCPM 5."""

import re

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


def _detect_minicpm(template: str, _: str) -> bool:
    return "<function name=" in template and "<param name=" in template


def _detect_muse(template: str, _: str) -> bool:
    return "<atem:function_calls>" in template


MINIMAX_M2 = tag_dialect("minimax_m2", _form("minimax:tool_call", "", "\n"), _detect_minimax)
MUSE = tag_dialect("muse", _form("atem:function_calls", "atem:", ""), _detect_muse)
# A string of several lines or with markup is written as CDATA.
MINICPM5 = tag_dialect("minicpm5", MINICPM_FORM, _detect_minicpm)
