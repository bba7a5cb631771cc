"""The language of chat templates: what the worker checks when it loads a model and the API renders with."""

from jinja2 import TemplateSyntaxError, ext, nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class GenerationTag(ext.Extension):
    """`{% generation %}` marks what an assistant said, for training; here it is what stands in it."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def template_environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, ext.loopcontrols]
    )


def syntax_fault(source: str) -> str:
    """Where a template breaks the language's rules, and how; empty: nowhere. Nothing of it is computed."""
    try:
        template_environment().parse(source)
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {(error.message or 'not understood').rstrip('.')}"
    except RecursionError:
        return "it is nested too deeply"
    return ""
