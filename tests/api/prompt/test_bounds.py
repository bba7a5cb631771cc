"""A template that loops or grows without end is stopped, and the process continues."""

import resource
import time
from dataclasses import replace
from mmap import mmap

import pytest

from api.process.offload import in_python_thread
from api.prompt import conversation, template_traits
from api.prompt.bounds import TooSlow, bounded
from api.prompt.conversation import Conversation, render
from api.prompt.special_tokens import Guard
from api.schema.chat import Message
from common.errors import InvalidRequest
from common.wire import ModelCard

CARD = ModelCard(
    queue="q", names=("q",), root="r", revision="1", architecture="llama", max_model_len=64, vocab_size=10, created=0,
    tokenizer="", chat_template=None,
)  # fmt: skip
HOSTILE = {
    "loops for ever": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "grows for ever": "{% set n = namespace(s='x') %}{% for i in range(80) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "one huge string": "{{ 'x' * 99999999999 }}",
    "divides by nothing": "{{ 1 // 0 }}",
    "reaches for Python": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "reaches for globals": "{{ messages.__init__.__globals__ }}",
    "changes what it is given": "{{ messages.append(1) }}",
    "calls what is not there": "{{ nothing.at.all() }}",
    "calls itself": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "is not a template": "{% for %}",
}


@pytest.fixture
def narrow(monkeypatch):
    """Limits of a template while it is examined, and while it is rendered."""
    for module in (template_traits, conversation):
        monkeypatch.setattr(module, "TEMPLATE_TIME_S", 0.2)
        monkeypatch.setattr(module, "TEMPLATE_BYTES", 2**26)


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_template_is_the_callers_400_within_its_time(narrow, template):
    """The processor's time: a template never waits, and a busy machine would make any other time longer."""
    card = replace(CARD, chat_template=template)
    began = time.process_time()
    with pytest.raises(InvalidRequest):
        render(Conversation([Message(role="user", content="Hi")]), card, Guard([]))
    assert time.process_time() - began < 2


def test_work_that_ends_in_time_is_left_alone():
    with bounded(5, 2**28):
        text = "x" * 1000
    assert text and not time.sleep(0)


def test_a_hostile_template_ends_in_a_thread_too(narrow):
    """In a thread, as for a long conversation."""
    card = replace(CARD, chat_template=HOSTILE["loops for ever"])
    limit = resource.getrlimit(resource.RLIMIT_AS)
    for _ in range(3):
        with pytest.raises(InvalidRequest, match="needs too long"):
            in_python_thread(render, Conversation([Message(role="user", content="Hi")]), card, Guard([]))
    assert in_python_thread(sum, [1, 2]) == 3
    assert resource.getrlimit(resource.RLIMIT_AS) == limit


def test_overlapping_limits_restore_the_process_s_own():
    limit = resource.getrlimit(resource.RLIMIT_AS)
    with bounded(5, 2**28):
        in_python_thread(
            render, Conversation([Message(role="user", content="Hi")]), replace(CARD, chat_template="x"), Guard([])
        )
        assert resource.getrlimit(resource.RLIMIT_AS) != limit
    assert resource.getrlimit(resource.RLIMIT_AS) == limit


def test_overlapping_limits_do_not_shrink_one_another():
    with bounded(5, 2**26):
        taken = mmap(-1, 2**25)
        with bounded(5, 2**26):
            more = mmap(-1, 2**26 - 2**20)
    assert len(taken) + len(more) > 2**26


def test_bounds_end_with_their_block():
    with pytest.raises(TooSlow), bounded(0.05, 2**30):
        while True:
            pass
    end = time.monotonic() + 0.1
    while time.monotonic() < end:
        pass
    assert len(bytearray(2**28)) == 2**28
