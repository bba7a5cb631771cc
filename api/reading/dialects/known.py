"""The tool-call dialects that this server parses and enforces."""

from api.reading.dialects.dialect import ToolDialect
from api.reading.dialects.literals.gemma import FUNCTION_GEMMA, GEMMA4
from api.reading.dialects.literals.pythonic import PYTHONICS
from api.reading.dialects.objects.cohere import COHERE, COMMAND_R
from api.reading.dialects.objects.hermes import HERMES
from api.reading.dialects.objects.llama3 import LLAMA3_JSON
from api.reading.dialects.objects.marked_lists import MARKED_LISTS
from api.reading.dialects.objects.marked_objects import MARKED_OBJECTS
from api.reading.dialects.objects.mistral import MISTRAL, MISTRAL_ARGS, MISTRAL_IDS
from api.reading.dialects.objects.named_forms import NAMED_FORMS
from api.reading.dialects.objects.xlam import XLAM
from api.reading.dialects.tags.tag_forms import TAG_FORMS
from api.reading.harmony.calls import HARMONY

DIALECTS = (  # the first that detects a template is chosen
    HARMONY,
    *TAG_FORMS,
    *NAMED_FORMS,
    COHERE,
    COMMAND_R,
    *MARKED_OBJECTS,
    GEMMA4,
    FUNCTION_GEMMA,
    *PYTHONICS,
    *MARKED_LISTS,
    XLAM,
    MISTRAL_IDS,
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
