"""Calls as the models' templates write them, read back however they are cut."""

import json
from random import Random

import pytest

from tests.api.reading.dialects.reading import a_value, calls, cuttings, parse
from tests.api.reading.dialects.tags.examples import TAGS

NUM_ROUNDS = 110  # each in three cuttings
KINDS = {"f": {"s": "text", "t": "text", "o": "json", "n": "json", "u": "text|null"}}
TEXTS = (
    *("", "5", "true", "null", "None", "[1]", '{"a": 1}', '"x"', "a\n", "\n\nb", "  c  ", "憂鬱 🇫🇷", "\\n \\ \t"),
    *(
        "x" * 200,
        "<b>&amp;</b>",
        "</tool_call>",
        "</parameter> x",
        "<parameter=a>",
        "</arg_value>b",
        "</function>\nfoo",
    ),
    *("if a < b && c:\n\tpass", "</param> y", "]]>", "<|close|>", "</｜DSML｜parameter>z", "it's", "<tool_call>"),
)


def parameter(name, key, value):
    """One parameter as the template of the form writes it."""
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    tag = TAGS[name].parts[3].replace("city", key)
    if not isinstance(value, str):
        kind = "null" if value is None else {dict: "object", list: "array", bool: "boolean"}.get(type(value), "number")
        tag = tag.replace('string="true"', 'string="false"').replace('type="string"', f'type="{kind}"')
        tag = tag.replace("<![CDATA[", "").replace("]]>", "")
    return tag.replace("{}", written)


def answer(name, made):
    _, opening, weather, city, closing, *_ = TAGS[name].parts
    before, after = weather.split(city.format("Paris"))
    second = TAGS[name].written.removeprefix(opening + weather)
    between = second[: second.index(before.partition("get_weather")[0] + "now")]
    texts = [
        before.replace("get_weather", "f") + "".join(parameter(name, *item) for item in arguments.items()) + after
        for arguments in made
    ]
    return opening + between.join(texts) + closing


def arguments_of(rng):
    """Strings, values of JSON, and values that may be either."""
    drawn = {
        "s": rng.choice(TEXTS),
        "t": rng.choice(TEXTS) + rng.choice(TEXTS),
        "o": rng.choice([[a_value(rng) for _ in range(2)], {"k": a_value(rng), "m": rng.choice(TEXTS)}]),
        "n": rng.choice([5, -2.5, True, None]),
        "u": rng.choice([None, "5", "text"]),
    }
    return {key: drawn[key] for key in rng.sample(list(drawn), rng.randint(0, len(drawn)))}


@pytest.mark.parametrize("name", TAGS)
def test_what_a_template_writes_is_read_back_however_it_is_cut(name):
    rng = Random(name)
    for _ in range(NUM_ROUNDS):
        made = [arguments_of(rng) for _ in range(rng.randint(1, 3))]
        text = answer(name, made)
        for cutting in cuttings(text, rng):
            found, content = calls(parse(name, cutting, KINDS))
            assert [(function, json.loads(written)) for function, written in found] == [("f", one) for one in made], (
                text
            )
            assert content.strip() == ""
