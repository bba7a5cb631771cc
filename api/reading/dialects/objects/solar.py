"""Solar Open: an id, a name and JSON arguments, each after a marker of its own."""

import re

from api.reading.dialects.dialect import ToolDialect
from api.reading.dialects.objects.named_call import NAME, NamedCalls

BEGIN = "<|tool_call:begin|>"
NAME_MARK = "<|tool_call:name|>"
ARGUMENTS = "<|tool_call:args|>"
CALLS = NamedCalls(
    begin=BEGIN,
    head=f"{{id}}{NAME_MARK}{{name}}{ARGUMENTS}",
    header=re.compile(rf"\s*[\w-]*\s*{re.escape(NAME_MARK)}\s*{NAME}\s*{re.escape(ARGUMENTS)}\s*"),
    end="<|tool_call:end|>",
    section=("<|tool_calls|>", "<|calls|>"),
    id_pattern="[a-z0-9]{10}",
)


def detect(template: str, _: str) -> bool:
    return BEGIN in template


SOLAR = ToolDialect(
    "solar", CALLS.openings, detect, CALLS.new_block, CALLS.write_grammar, further_marks=CALLS.further_marks
)
