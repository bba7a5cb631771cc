"""A model's chat template, rendered in a sandbox to the text that transformers renders, without importing it.

Templates have what transformers offers them (`tojson`, `raise_exception`, `strftime_now`, loop controls, the
`generation` tag); tests/api/prompt/test_templates.py holds the two side by side.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Any, NoReturn

from jinja2 import Template, TemplateError
from jinja2.exceptions import SecurityError
from jinja2.utils import Namespace

from common.errors import InvalidRequest
from common.model.template_syntax import template_environment

KWARG = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
TYPED_KWARGS: Mapping[str, type] = MappingProxyType(
    {"enable_thinking": bool, "thinking": bool, "reasoning_effort": str}
)
# what the server passes, what templates are offered beside it, and arguments of transformers that clients pass on
OWN_NAMES = frozenset(
    "messages tools documents add_generation_prompt continue_final_message xml_tools functions datetime "
    "raise_exception strftime_now namespace dict range lipsum cycler joiner loop self caller true false none "
    "chat_template conversation tokenize".split()
)

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
    final = ""
    if continue_final:
        final = _mark_end(source, prepared)
    text = compiled(source).render(
        messages=prepared,
        tools=list(tools) or None,
        documents=None,
        add_generation_prompt=add_generation_prompt and not continue_final,
        **variables,
    )
    return _cut(text, final) if continue_final else text


def checked_kwargs(kwargs: Mapping[str, Any], special_tokens: Mapping[str, str]) -> dict[str, Any]:
    """A caller's variables for the template: JSON scalars under names of their own. Raises InvalidRequest."""
    for name, value in kwargs.items():
        if fault := _kwarg_fault(name, value, special_tokens):
            raise InvalidRequest(f"'chat_template_kwargs'{fault}.", param="chat_template_kwargs")
    return dict(kwargs)


def _kwarg_fault(name: str, value: Any, special_tokens: Mapping[str, str]) -> str:
    """What to say of a variable that a request may not set, or not to this value; '' if it may."""
    if not KWARG.fullmatch(name):
        return " has a name of other than letters, digits and underscores, or that does not begin with a letter"
    if name in OWN_NAMES or name in special_tokens or name.endswith("_token"):
        return f": {name!r} is not for requests to set"
    wanted = TYPED_KWARGS.get(name)
    if wanted is not None and not isinstance(value, wanted | None):
        return f": {name!r} must be {'true or false' if wanted is bool else 'a text'}"
    if not isinstance(value, str | int | float | None):
        return f": {name!r} must be a text, a number, true, false or null"
    return ""


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


def _mark_end(source: str, prepared: list[dict[str, Any]]) -> str:
    """Puts the mark behind the text that the answer continues, and returns that text: the last message's content, or
    its reasoning if there is no more of it."""
    last = prepared[-1] if prepared else {}
    if last.get("reasoning_content") and not last.get("content"):
        final, marked = _marked(last["reasoning_content"])
        last |= {"content": "", "thinking": marked, "reasoning_content": marked}
    else:
        final, last["content"] = _marked(_final_content(source, prepared))
    return final


def _final_content(source: str, messages: Sequence[Mapping[str, Any]]) -> Any:
    content = messages[-1].get("content") if messages else None
    if content is None:
        raise ValueError("the final message has no content to continue")
    if "content" not in source:
        raise ValueError("the template does not write the content of messages")
    return content


def _marked(content: Any) -> tuple[str, Any]:
    """The text at the end of a content, and the content with the mark behind it."""
    if not isinstance(content, list):
        return str(content), str(content) + MARK
    for at in reversed(range(len(content))):
        if "text" in (part := content[at]):
            return part["text"], [*content[:at], part | {"text": part["text"] + MARK}, *content[at + 1 :]]
    raise ValueError("the final message has no text to continue")


def _cut(text: str, final: str) -> str:
    """The text up to the mark, where the answer continues."""
    if final.strip() not in text or MARK.strip() not in text:
        raise ValueError("the template leaves out the final message, so it cannot be continued")
    end = text.rindex(MARK.strip())
    return text[:end] if text[end:].startswith(MARK) else text[:end].rstrip()
