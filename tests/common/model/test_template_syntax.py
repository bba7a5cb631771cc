"""Syntax faults of chat templates are found without rendering."""

import pytest

from common.model.template_syntax import syntax_fault


@pytest.mark.parametrize(
    "source, said",
    [
        ("{% for x in %}", "line 1: "),
        ("{% for m in messages %}\n{{ m.content }}", "line 2: Unexpected end of template"),
        ("{{ 'a }}", "line 1: "),
        ("{% nope %}", "line 1: Encountered unknown tag 'nope'"),
        ("{{ " + "(" * 20_000, "it is nested too deeply"),
    ],
)
def test_a_fault_names_its_line(source: str, said: str) -> None:
    assert syntax_fault(source).startswith(said)


@pytest.mark.parametrize(
    "source",
    [
        "",
        "{{ raise_exception('no') }}{{ 1 / 0 }}{{ unknown() }}",
        "{% generation %}{% for m in messages %}{% break %}{% endfor %}{% endgeneration %}",
        "{{ 'a' * 10000000000 }}",
    ],
)
def test_a_fault_at_rendering_time_is_not_a_syntax_fault(source: str) -> None:
    assert syntax_fault(source) == ""
