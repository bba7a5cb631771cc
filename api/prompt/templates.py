"""A model's chat template, rendered in a sandbox to the text that transformers renders, without importing it.

Templates have what transformers offers them (`tojson`, `raise_exception`, `strftime_now`, loop controls, the
`generation` tag); tests/api/prompt/test_templates.py holds the two side by side.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

from common.model.template_syntax import template_environment

# Marks the end of the final message; its space shows whether the template strips text.
MARK = "CONTINUE_FINAL_MESSAGE_TAG "


def render_template(
    source: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool,
    continue_final: bool,
    variables: Mapping[str, Any],
) -> str:
    """Raises what jinja2 and the template raise, and ValueError for a final message that cannot be continued."""
    prepared = [_with_reasoning(message) for message in messages]
    if continue_final:
        prepared[-1]["content"] = _final_text(source, prepared) + MARK
    text = compiled(source).render(
        messages=prepared,
        tools=list(tools) or None,
        documents=None,
        add_generation_prompt=add_generation_prompt and not continue_final,
        **variables,
    )
    return _cut(text, prepared[-1]["content"].removesuffix(MARK)) if continue_final else text


@lru_cache(maxsize=16)
def compiled(source: str) -> Template:
    environment = template_environment()
    environment.filters["tojson"] = to_json
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": PlainDict(),
        "namespace": PlainNamespace,
    }
    return environment.from_string(source)


class PlainDict:
    """`dict(...)` for templates, without access to the type itself."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class PlainNamespace(Namespace):
    """`namespace(...)` without underscored names, through which a template could reach Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # no parameter is named, so that `namespace(self=1)` works
        fields = dict(*args[1:], **kwargs)
        for name in fields:
            _refuse_underscored(name)
        Namespace.__init__(args[0], fields)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscored(name)
        super().__setitem__(name, value)


def _refuse_underscored(name: object) -> None:
    if str(name).startswith("_"):
        raise SecurityError(f"a namespace takes no name with an underscore in front, such as {name!r}")


def to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Replaces jinja2's filter, which escapes HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _with_reasoning(message: Mapping[str, Any]) -> dict[str, Any]:
    """Reasoning under each name that templates use."""
    names = ("reasoning_content", "thinking", "reasoning")
    reasoning = next((message[name] for name in names if message.get(name) is not None), None)
    return {**message} if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _final_text(source: str, messages: Sequence[Mapping[str, Any]]) -> str:
    content = messages[-1].get("content") if messages else None
    if content is None:
        raise ValueError("the final message has no content to continue")
    if "content" not in source:
        raise ValueError("the template does not write the content of messages")
    return str(content)


def _cut(text: str, final: str) -> str:
    """The text up to the mark, where the answer continues."""
    if final.strip() not in text or MARK.strip() not in text:
        raise ValueError("the template leaves out the final message, so it cannot be continued")
    end = text.rindex(MARK.strip())
    return text[:end] if text[end:].startswith(MARK) else text[:end].rstrip()
