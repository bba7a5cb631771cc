"""The tool-call dialects that this server parses and enforces."""

from api.reading.dialects.dialect import ToolDialect
from api.reading.dialects.objects.hermes import HERMES
from api.reading.dialects.objects.llama3 import LLAMA3_JSON
from api.reading.dialects.objects.marked_lists import MARKED_LISTS
from api.reading.dialects.objects.mistral import MISTRAL, MISTRAL_ARGS
from api.reading.dialects.tags.deepseek_v32 import DEEPSEEK_V32

DIALECTS = (
    DEEPSEEK_V32,
    *MARKED_LISTS,
    MISTRAL_ARGS,
    MISTRAL,
    HERMES,
    LLAMA3_JSON,
)  # the first that detects a template is chosen


def dialect_named(name: str) -> ToolDialect:
    """The dialect with this name. Raises LookupError."""
    for dialect in DIALECTS:
        if dialect.name == name:
            return dialect
    raise LookupError(f"no tool-call dialect is named {name!r}")


def dialect_for(chat_template: str | None, architecture: str) -> ToolDialect | None:
    """The dialect of a model, read off its chat template and architecture; None if it is not a known one."""
    template = chat_template or ""
    return next((dialect for dialect in DIALECTS if dialect.detect(template, architecture)), None)
