"""Patterns with look-ahead, written as patterns without."""

import random
import re

import pytest

from common.grammar.patterns import enforceable

EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"  # zod 4's


@pytest.mark.parametrize("pattern", [r"^a|b$", r"[(?=]\(?!", r"^\\b$", r"(?:a)(?P<n>b)"])
def test_a_pattern_without_assertions_stays_as_it_is(pattern):
    assert enforceable(pattern) == (pattern,)


@pytest.mark.parametrize(
    "pattern",
    [
        EMAIL, r"^(?!0)\d+$", r"^(?=.*[A-C])(?=.*\d).{2,5}$", r"^(?=.{1,3}$)[a-c.]+$", r"^(?=a|\$)[a$]+",
        r"^(?!ab)[a-c]*$", r"^(?!ab$)[a-c]*$", r"^(?!a|bc)[a-c]*$", r"^(?![ab])[a-c]*$", r"^(?![^ab])[a-c]*$",
        r"^(?!.*c)[a-c]*$", r"^(?!.*--)[a-c-]+$", r"^(?!$)[a-c]*$", r"^(?!.)[a-c]*$",
    ],
)  # fmt: skip
def test_look_ahead_at_the_beginning_becomes_patterns_that_allow_the_same_texts(pattern):
    parts = enforceable(pattern)
    assert parts and not any("(?=" in part or "(?!" in part for part in parts)
    draw = random.Random(pattern)
    texts = ["".join(draw.choices("abcAB.10-@$", k=draw.randint(0, 7))) for _ in range(3000)] + [
        "a.b@c.de",
        "a..b@c.de",
    ]
    for text in texts:
        assert all(re.search(part, text) for part in parts) == bool(re.search(pattern, text)), (text, parts)


@pytest.mark.parametrize(
    "pattern",
    [
        r"^(a)\1$",
        r"a(?=b)",
        r"(?!a)b",
        r"^(?!a)b|c",
        r"^(?!a+)b",
        r"\bfoo",
        r"^(?!\x41)b",
        r"^(?!a",
        r"^(?=a|b$)b",
        r"^(?<=a)b",
    ],
)
def test_other_assertions_cannot_be_enforced(pattern):
    assert enforceable(pattern) is None
