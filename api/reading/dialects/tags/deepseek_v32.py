"""DeepSeek V3.2 and V4: a block of `invoke` tags, whose `parameter` tags say if they hold plain strings or JSON."""

import re

from api.reading.dialects.tags.tag_dialect import tag_dialect
from api.reading.dialects.tags.tag_form import BREAK, Tag, TagForm, Writing

DSML = "｜DSML｜"
INVOKE, PARAMETER = f'<{DSML}invoke name="', f'<{DSML}parameter name="'


def _form(block: str) -> TagForm:
    return TagForm(
        opening=f"<{DSML}{block}>",
        closing=f"</{DSML}{block}>",
        call=Tag(INVOKE, '">', re.compile(f'{INVOKE}(?P<name>[^"\n]+)">')),
        call_end=f"</{DSML}invoke>",
        parameter=Tag(
            PARAMETER, '">', re.compile(f'{PARAMETER}(?P<name>[^"\n]+)"(?: string="(?P<type>true|false)")?>')
        ),
        parameter_end=f"</{DSML}parameter>",
        type_name=lambda found: "true" if found == "string" else "false",
        writing=Writing(
            call=f'\n{INVOKE}{{name}}">\n',
            parameter=f'{PARAMETER}{{name}}" string="{{type}}">',
            value_end="\n",
            call_end=f"{BREAK}</{DSML}invoke>",  # V4 writes an empty line for no parameters
            block_end=f"\n</{DSML}{block}>",
            lead="\n\n",
            unnameable='"\n',
        ),
    )


def _detect_v32(template: str, architecture: str) -> bool:
    return (DSML in template and "function_calls>" in template) or (not template and architecture == "deepseek_v32")


def _detect_v4(template: str, architecture: str) -> bool:
    return (DSML in template and "tool_calls>" in template) or (not template and architecture == "deepseek_v4")


DEEPSEEK_V32 = tag_dialect("deepseek_v32", _form("function_calls"), _detect_v32)
DEEPSEEK_V4 = tag_dialect("deepseek_v4", _form("tool_calls"), _detect_v4)
