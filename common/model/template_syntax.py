"""The language of chat templates: the worker checks a model's template with it, the API renders with it."""

from jinja2 import TemplateSyntaxError, ext, nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class GenerationTag(ext.Extension):
    """`{% generation %}` marks the assistant's text for training; here the tag renders its content."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def template_environment() -> ImmutableSandboxedEnvironment:
    return ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, ext.loopcontrols]
    )


def syntax_fault(source: str) -> str:
    """The first syntax fault and its line; empty if there is none. The template is not rendered."""
    try:
        template_environment().parse(source)
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {(error.message or 'not understood').rstrip('.')}"
    except RecursionError:
        return "it is nested too deeply"
    return ""
