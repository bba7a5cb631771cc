"""The card of a model that writes harmony: bytes as tokens, harmony's marks as special tokens, a small template."""

from tests.api.cards import bytes_tokenizer
from tests.api.conftest import card

MARKS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>")
TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool.function.name }}{% endfor %}"
    "{% for m in messages %}{% if m.tool_calls %}"
    "{% if m.content and m.thinking %}{{ raise_exception('not both') }}{% endif %}"
    "{% if m.content or m.thinking %}<|start|>assistant<|channel|>analysis<|message|>{{ m.content or m.thinking }}"
    "<|end|>{% endif %}"
    "<|start|>assistant to=functions.{{ m.tool_calls[0].function.name }}<|channel|>commentary json<|message|>"
    "{{ m.tool_calls[0].function.arguments | tojson }}<|call|>"
    "{% elif m.role == 'assistant' %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if reasoning_effort %}{{ reasoning_effort }}{% endif %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


def harmony_card():
    tokenizer = bytes_tokenizer(*MARKS)
    ends = tuple(tokenizer.token_to_id(mark) for mark in ("<|return|>", "<|call|>"))
    return card(tokenizer, chat_template=TEMPLATE, architecture="gpt_oss", eos_token_ids=ends)
