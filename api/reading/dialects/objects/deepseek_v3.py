"""DeepSeek V3, R1 and V3.1: a name and JSON arguments between full-width markers; before V3.1 the JSON is fenced."""

import re

from api.reading.dialects.objects.named_call import NAME, NamedCalls, named_calls

SECTION = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
BEGIN = "<｜tool▁call▁begin｜>"
SEPARATOR = "<｜tool▁sep｜>"
END = "<｜tool▁call▁end｜>"
FENCE = "\n```json\n"
HEADER = re.compile(rf"\s*(?:function{SEPARATOR})?{NAME}(?:{SEPARATOR})?\s*(?:```(?:json)?)?\s*(?:```\s*)?")
FENCED = NamedCalls(
    begin=BEGIN,
    head=f"function{SEPARATOR}{{name}}{FENCE}",
    header=HEADER,
    before_end="\n```",
    end=END,
    section=SECTION,
    between="\n",
)
PLAIN = NamedCalls(begin=BEGIN, head=f"{{name}}{SEPARATOR}", header=HEADER, end=END, section=SECTION)


def detect_fenced(template: str, _: str) -> bool:
    return BEGIN in template and "```json" in template


def detect_plain(template: str, _: str) -> bool:
    return BEGIN in template and "```json" not in template


DEEPSEEK_V3 = named_calls("deepseek_v3", FENCED, detect_fenced)
DEEPSEEK_V31 = named_calls("deepseek_v31", PLAIN, detect_plain)
