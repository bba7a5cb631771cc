"""Keywords that say nothing or that others say as well; schemas without an end."""

import pytest

from common.errors import InvalidRequest
from common.grammar.answer import json_schema_grammar
from common.grammar.check import GrammarCheck
from tests.common.grammar.test_patterns import EMAIL
from tests.grammars import allows


@pytest.fixture(scope="module")
def check():
    return GrammarCheck()


def one(**schema):
    return {"type": "object", "properties": {"a": schema}, "required": ["a"], "additionalProperties": False}


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (one(type="string", pattern=r"^(?!0)\d+$"), '{"a":"12"}', '{"a":"012"}'),
        (one(type="string", format="email", pattern=EMAIL), '{"a":"a.b@c.de"}', '{"a":"a..b@c.de"}'),
        (one(type="string", format="cuid2", pattern="^[0-9a-z]+$"), '{"a":"0z"}', '{"a":"Z"}'),
        (one(type="string", format="base64", pattern="^[a-z]*=$"), '{"a":"b="}', '{"a":"b"}'),
        (one(type="string", format="ends_with", allOf=[{"pattern": "^ab.*"}, {"pattern": ".*c$"}]),
         '{"a":"abxc"}', '{"a":"abx"}'),
        (one(type="string", format="duration", pattern=r"^P(?:(\d+W)|(?!.*W)(?=\d|T\d)(\d+Y)?)$"),
         '{"a":"P1D"}', '{"a":"x"}'),
        (one(oneOf=[{"const": 1, "title": "one"}, {"const": "b"}]), '{"a":"b"}', '{"a":2}'),
        (one(type="integer", enum=None, minimum=None, required=None, properties=None, anyOf=None) | {"$ref": None},
         '{"a":1}', '{"a":"x"}'),
        (one(const=None, enum=None), '{"a":null}', '{"a":1}'),
        (one(type="string", format="password"), '{"a":"x"}', '{"a":1}'),
        (one(type="array", items={"type": "integer"}, uniqueItems=False), '{"a":[1,1]}', '{"a":["1"]}'),
        ({"type": "object", "propertyNames": {"type": "string"}, "additionalProperties": {"type": "integer"}},
         '{"b":1}', '{"b":"1"}'),
        ({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}},
         '{"b":1}', '{"c":1}'),
        ({"type": "object", "propertyNames": {"pattern": "^x+$"}, "additionalProperties": {"type": "integer"}},
         '{"xx":1}', '{"y":1}'),
        ({"type": "object", "properties": {"a": {"not": {}}, "b": {"type": "null"}}, "additionalProperties": False},
         '{"b":null}', '{"a":null}'),
    ],
)  # fmt: skip
def test_what_zod_and_pydantic_write_is_enforced(check, schema, good, bad, strict):
    grammar = json_schema_grammar(schema, "response_format", strict=strict)
    check.compiled(grammar)
    assert allows(grammar, good)
    assert not allows(grammar, bad)


@pytest.mark.parametrize(
    "schema", [one(type="string", pattern=r"^(a)\1$"), one(patternProperties={r"\bx": {"type": "null"}})]
)
def test_a_pattern_that_cannot_be_enforced_is_ignored_unless_the_schema_is_strict(check, schema):
    check.compiled(json_schema_grammar(schema, "x", strict=False))
    with pytest.raises(InvalidRequest):
        check.compiled(json_schema_grammar(schema, "x", strict=True))


CHAIN = {str(n): {"$ref": f"#/$defs/{n + 1}"} for n in range(99)}
NODE = one(**{"$ref": "#/$defs/A"})


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        (NODE | {"$defs": {"A": {"$ref": "#/$defs/A"}}}, "#/$defs/A"),
        (NODE | {"$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"anyOf": [{"$ref": "#/$defs/A"}]}}}, "#/$defs/A"),
        ({"$ref": "#"}, "'#'"),
        (one(**{"$ref": "#"}), "'#'"),
        ({"type": "array", "minItems": 1, "items": {"$ref": "#"}}, "'#'"),
        ({"type": "array", "minItems": 2, "prefixItems": [{}], "items": {"$ref": "#"}}, "'#'"),
        (one(**{"not": {}}), "nothing can fulfil"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_schema_that_never_ends_is_refused(schema, named, strict):
    with pytest.raises(InvalidRequest, match=r"The schema (never|demands)") as refused:
        json_schema_grammar(schema, "x", strict=strict)
    assert named in str(refused.value)


@pytest.mark.parametrize(
    "schema",
    [
        NODE | {"$defs": {"A": {"anyOf": [{"$ref": "#/$defs/A"}, {"type": "null"}]}}},
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "array", "minItems": 1, "prefixItems": [{}], "items": {"$ref": "#"}},
        {"type": "object", "properties": {"next": {"$ref": "#"}}},
        NODE | {"$defs": {"A": {"$ref": "#/$defs/a~1b"}, "a/b": {"enum": [1]}}},
        NODE | {"$defs": {"A": {"$ref": "#/$defs/0"}, "99": {}, **CHAIN}},
    ],
)  # fmt: skip
def test_a_recursive_schema_with_an_end_is_taken(check, schema):
    check.compiled(json_schema_grammar(schema, "x"))
