"""Functionary v3.1: `<function=NAME>` + JSON arguments + `</function>`, once per call."""

import re

from api.reading.dialects.objects.named_call import NAME, NamedCalls, named_calls

BEGIN = "<function="
CALLS = NamedCalls(begin=BEGIN, head="{name}>", header=re.compile(rf"{NAME}>\s*"), end="</function>")


def detect(template: str, _: str) -> bool:
    """The form of Qwen3-Coder begins likewise, but stands in `<tool_call>` and has a tag for each parameter."""
    return BEGIN in template and "<tool_call>" not in template and "<parameter" not in template


FUNCTIONARY_V31 = named_calls("functionary_v31", CALLS, detect)
