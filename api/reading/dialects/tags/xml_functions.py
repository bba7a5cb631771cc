"""`<function=f>` with `<parameter=p>` tags: Qwen3-Coder, Qwen 3.5 and later, Nemotron 3, Step 3.5; Seed-OSS."""

import re

from api.reading.dialects.tags.tag_dialect import tag_dialect
from api.reading.dialects.tags.tag_form import Tag, TagForm, Writing

FUNCTION, PARAMETER, PARAMETER_END = "<function=", "<parameter=", "</parameter>"


def _form(wrapper: str, padding: str) -> TagForm:
    return TagForm(
        opening=f"<{wrapper}>",
        closing=f"</{wrapper}>",
        call=Tag(FUNCTION, ">", re.compile(f"{FUNCTION}(?P<name>[^<>\n]+)>"), stops="\n<"),
        call_end="</function>",
        parameter=Tag(PARAMETER, ">", re.compile(f"{PARAMETER}(?P<name>[^<>\n]+)>"), stops="\n<"),
        parameter_end=PARAMETER_END,
        padding=padding,
        writing=Writing(
            call="\n<function={name}>\n",
            parameter=f"<parameter={{name}}>{padding}",
            value_end="\n",
            call_end="</function>\n",
            block_end=f"</{wrapper}>",
            between="\n",
            unnameable="<>\n",
        ),
    )


def _detect_qwen(template: str, _: str) -> bool:
    return FUNCTION in template and PARAMETER in template


def _detect_seed(template: str, _: str) -> bool:
    return "<seed:tool_call>" in template


# Qwen3-Coder often leaves the wrapper out, so that the function's tag begins a block too.
QWEN3_XML = tag_dialect("qwen3_xml", _form("tool_call", "\n"), _detect_qwen, bare=True)
SEED_OSS = tag_dialect("seed_oss", _form("seed:tool_call", ""), _detect_seed)
