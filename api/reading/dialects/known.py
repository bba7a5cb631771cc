"""The tool-call dialects that this server parses and enforces."""

from api.reading.dialects.dialect import ToolDialect
from api.reading.dialects.literals.gemma import FUNCTION_GEMMA, GEMMA4
from api.reading.dialects.literals.pythonic import PYTHONICS
from api.reading.dialects.objects.cohere import COHERE, COMMAND_R
from api.reading.dialects.objects.deepseek_v3 import DEEPSEEK_V3, DEEPSEEK_V31
from api.reading.dialects.objects.functionary import FUNCTIONARY_V31
from api.reading.dialects.objects.granite import GRANITE3
from api.reading.dialects.objects.hermes import HERMES
from api.reading.dialects.objects.kimi_k2 import KIMI_K2
from api.reading.dialects.objects.llama3 import LLAMA3_JSON
from api.reading.dialects.objects.marked_lists import MARKED_LISTS
from api.reading.dialects.objects.marked_objects import MARKED_OBJECTS
from api.reading.dialects.objects.mistral import MISTRAL, MISTRAL_ARGS
from api.reading.dialects.objects.solar import SOLAR
from api.reading.dialects.tags.deepseek_v32 import DEEPSEEK_V32
from api.reading.harmony.calls import HARMONY

DIALECTS = (  # the first that detects a template is chosen
    HARMONY,
    DEEPSEEK_V32,
    DEEPSEEK_V3,
    DEEPSEEK_V31,
    KIMI_K2,
    SOLAR,
    FUNCTIONARY_V31,
    COHERE,
    COMMAND_R,
    GRANITE3,
    *MARKED_OBJECTS,
    GEMMA4,
    FUNCTION_GEMMA,
    *PYTHONICS,
    *MARKED_LISTS,
    MISTRAL_ARGS,
    MISTRAL,
    HERMES,
    LLAMA3_JSON,
)


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
