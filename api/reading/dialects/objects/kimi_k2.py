"""Kimi K2: calls in a section, each with an id `functions.NAME:NUMBER` that holds its name, and JSON arguments."""

import re

from api.reading.dialects.objects.named_call import NAME, NamedCalls, named_calls

BEGIN = "<|tool_call_begin|>"
ARGUMENTS = "<|tool_call_argument_begin|>"
CALLS = NamedCalls(
    begin=BEGIN,
    head=f"functions.{{name}}:{{id}}{ARGUMENTS}",
    header=re.compile(rf"\s*(?:functions\.)?{NAME}(?::\d+)?\s*(?:{re.escape(ARGUMENTS)})?\s*"),
    end="<|tool_call_end|>",
    section=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    id_pattern="[0-9]{1,4}",
)


def detect(template: str, _: str) -> bool:
    return BEGIN in template and ARGUMENTS in template


def history_id(_: str, name: str, number: int) -> str:
    """Kimi's templates write the id itself, and the model knows the function by it."""
    return f"functions.{name}:{number}"


KIMI_K2 = named_calls("kimi_k2", CALLS, detect, history_id)
