"""Solar Open: an id, a name and JSON arguments, each after a marker of its own."""

import re

from api.reading.dialects.dialect import short_id
from api.reading.dialects.objects.named_call import NAME, NamedCalls, named_calls

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


def history_id(call_id: str, _: str, __: int) -> str:
    return call_id if re.fullmatch(CALLS.id_pattern, call_id) else short_id(call_id, 10)


SOLAR = named_calls("solar", CALLS, detect, history_id)
