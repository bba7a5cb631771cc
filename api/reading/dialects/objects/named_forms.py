"""DeepSeek V3, R1 and V3.1, Kimi K2, Solar Open and Functionary v3.1: a name and JSON arguments between markers."""

import re

from api.reading.dialects.dialect import short_id
from api.reading.dialects.objects.named_call import NAME, NamedCalls, named_calls

DEEPSEEK_BEGIN = "<｜tool▁call▁begin｜>"
DEEPSEEK_SEPARATOR = "<｜tool▁sep｜>"
DEEPSEEK_END = "<｜tool▁call▁end｜>"
DEEPSEEK_SECTION = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
DEEPSEEK_HEADER = re.compile(
    rf"\s*(?:function{DEEPSEEK_SEPARATOR})?{NAME}(?:{DEEPSEEK_SEPARATOR})?\s*(?:```(?:json)?)?\s*(?:```\s*)?"
)
FENCED = NamedCalls(
    begin=DEEPSEEK_BEGIN,
    head=f"function{DEEPSEEK_SEPARATOR}{{name}}\n```json\n",
    header=DEEPSEEK_HEADER,
    before_end="\n```",
    end=DEEPSEEK_END,
    section=DEEPSEEK_SECTION,
    between="\n",
)
NOT_FENCED = NamedCalls(
    begin=DEEPSEEK_BEGIN,
    head=f"{{name}}{DEEPSEEK_SEPARATOR}",
    header=DEEPSEEK_HEADER,
    end=DEEPSEEK_END,
    section=DEEPSEEK_SECTION,
)
KIMI_BEGIN = "<|tool_call_begin|>"
KIMI_ARGUMENTS = "<|tool_call_argument_begin|>"
KIMI = NamedCalls(
    begin=KIMI_BEGIN,
    head=f"functions.{{name}}:{{id}}{KIMI_ARGUMENTS}",
    header=re.compile(rf"\s*(?:functions\.)?{NAME}(?::\d+)?\s*(?:{re.escape(KIMI_ARGUMENTS)})?\s*"),
    end="<|tool_call_end|>",
    section=("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    id_pattern="[0-9]{1,4}",
)
SOLAR_BEGIN = "<|tool_call:begin|>"
SOLAR_NAME = "<|tool_call:name|>"
SOLAR_ARGUMENTS = "<|tool_call:args|>"
SOLAR_OPEN = NamedCalls(
    begin=SOLAR_BEGIN,
    head=f"{{id}}{SOLAR_NAME}{{name}}{SOLAR_ARGUMENTS}",
    header=re.compile(rf"\s*[\w-]*\s*{re.escape(SOLAR_NAME)}\s*{NAME}\s*{re.escape(SOLAR_ARGUMENTS)}\s*"),
    end="<|tool_call:end|>",
    section=("<|tool_calls|>", "<|calls|>"),
    is_end=True,
    id_pattern="[a-z0-9]{10}",
)
FUNCTION_BEGIN = "<function="
FUNCTIONARY = NamedCalls(begin=FUNCTION_BEGIN, head="{name}>", header=re.compile(rf"{NAME}>\s*"), end="</function>")


def detect_fenced(template: str, _: str) -> bool:
    return DEEPSEEK_BEGIN in template and "```json" in template


def detect_not_fenced(template: str, _: str) -> bool:
    return DEEPSEEK_BEGIN in template and "```json" not in template


def detect_kimi(template: str, _: str) -> bool:
    return KIMI_BEGIN in template and KIMI_ARGUMENTS in template


def detect_solar(template: str, _: str) -> bool:
    return SOLAR_BEGIN in template


def detect_functionary(template: str, _: str) -> bool:
    """The form of Qwen3-Coder begins likewise, but stands in `<tool_call>` and has a tag for each parameter."""
    return FUNCTION_BEGIN in template and "<tool_call>" not in template and "<parameter" not in template


def kimi_id(_: str, name: str, number: int) -> str:
    """Kimi's templates write the id itself, and the model knows the function by it."""
    return f"functions.{name}:{number}"


def solar_id(call_id: str, _: str, __: int) -> str:
    return call_id if re.fullmatch(SOLAR_OPEN.id_pattern, call_id) else short_id(call_id, 10)


DEEPSEEK_V3 = named_calls("deepseek_v3", FENCED, detect_fenced)
DEEPSEEK_V31 = named_calls("deepseek_v31", NOT_FENCED, detect_not_fenced)
KIMI_K2 = named_calls("kimi_k2", KIMI, detect_kimi, kimi_id)
SOLAR = named_calls("solar", SOLAR_OPEN, detect_solar, solar_id)
FUNCTIONARY_V31 = named_calls("functionary_v31", FUNCTIONARY, detect_functionary)
NAMED_FORMS = (DEEPSEEK_V3, DEEPSEEK_V31, KIMI_K2, SOLAR, FUNCTIONARY_V31)
