"""Chat templates render as in transformers, and cannot leave the sandbox."""

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from api.prompt.templates import render_template

TURNS = """{%- for message in messages -%}
    <|{{ message.role }}|>
{{ message.content }}<end>
{% endfor -%}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
STRIPPING = "{% for message in messages %}[{{ message.role }}]{{ message.content | trim }}{% endfor %}"
CALLS = """{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{% for m in messages %}
{%- if m.tool_calls %}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}{% endif %}
{{- m.reasoning_content or m.thinking or '' }}{{ m.content }}{% endfor %}"""
EVERYTHING = """{% set ns = namespace(seen=0, self=1) %}{% for m in messages %}
{%- if m.role == 'tool' %}{% continue %}{% endif %}
{%- generation %}{{ bos_token }}{{ m.content | upper }}{% endgeneration %}{% set ns.seen = ns.seen + 1 %}
{%- if loop.index > 3 %}{% break %}{% endif %}{% endfor %}{{ ns.seen }}{{ dict(a=1) | tojson }}{{ documents }}
{{- strftime_now('%Y') }}{{ enable_thinking is defined }}"""
CALLED = [{"id": "1", "type": "function", "function": {"name": "add", "arguments": {"ä": 1}}}]
MESSAGES = [
    {"role": "system", "content": "Be <kind> & brief."},
    {"role": "user", "content": "  Zwölf?  "},
    {"role": "assistant", "content": "12", "reasoning": "counted", "tool_calls": CALLED},
    {"role": "tool", "tool_call_id": "1", "content": "ok"},
    {"role": "assistant", "content": " so far "},
]  # fmt: skip
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
VARIABLES = {"bos_token": "<s>", "enable_thinking": True}


def demo_template() -> str:
    folder = Path(__file__).parents[3] / "demo" / "model"
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text()
    return str(json.loads((folder / "tokenizer_config.json").read_text())["chat_template"])


def ours(template: str, messages: Any = MESSAGES, *, continue_final: bool = False) -> str:
    return render_template(
        template, messages, TOOLS, add_generation_prompt=True, continue_final=continue_final, variables=VARIABLES
    )


@pytest.mark.parametrize("continue_final", [False, True])
@pytest.mark.parametrize("template", [TURNS, STRIPPING, CALLS, EVERYTHING, demo_template()])
def test_it_is_what_transformers_renders(template: str, continue_final: bool) -> None:
    def theirs() -> str:
        rendered, _ = render_jinja_template(
            conversations=[MESSAGES],
            chat_template=template,
            tools=TOOLS,
            add_generation_prompt=not continue_final,
            continue_final_message=continue_final,
            **VARIABLES,
        )
        return str(rendered[0])

    try:
        expected = theirs()
    except ValueError:
        with pytest.raises(ValueError, match="final message"):
            ours(template, continue_final=continue_final)
    else:
        assert ours(template, continue_final=continue_final) == expected


def test_a_final_message_of_parts_is_continued_as_in_transformers() -> None:
    parts = [
        {"type": "image"},
        {"type": "text", "text": "It is "},
        {"type": "text", "text": " so far "},
        {"type": "image"},
    ]
    messages = [*MESSAGES[:-1], {"role": "assistant", "content": parts}]
    shown = """{%- for m in messages -%}[{{ m.role }}]{%- if m.content is string -%}{{ m.content }}{%- else -%}
{%- for p in m.content -%}{{ p.text }}{%- endfor -%}{%- endif -%}{%- endfor -%}<end>"""
    theirs, _ = render_jinja_template(
        [messages], chat_template=shown, tools=TOOLS, continue_final_message=True, **VARIABLES
    )
    assert ours(shown, messages, continue_final=True) == theirs[0]
    assert theirs[0].endswith("[assistant]It is  so far ")
    with pytest.raises(ValueError, match="no text to continue"):
        ours(shown, [{"role": "assistant", "content": [{"type": "image"}]}], continue_final=True)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no') }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ dict.__class__ }}{{ dict.__init__.__globals__ }}",
        "{% set ns = namespace(__init__=1) %}",
        "{% set ns = namespace() %}{% set ns._x = 1 %}",
        "{{ messages.append(1) }}",
        "{{ strftime_now.__globals__.sys }}",
        "{% include 'x' %}",
    ],
)
def test_nothing_gets_out_of_the_sandbox(template: str) -> None:
    with pytest.raises((TemplateError, TypeError)):
        ours(template)


def test_a_conversation_without_text_at_its_end_cannot_be_continued() -> None:
    for messages in ([], [{"role": "assistant"}]):
        with pytest.raises(ValueError, match="no content"):
            ours(TURNS, messages, continue_final=True)
