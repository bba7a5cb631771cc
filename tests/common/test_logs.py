"""The fields of a log line; prompts and keys never appear in one."""

import logging
import sys

import orjson
import pytest

from common.logs import JsonFormatter, PlainFormatter


def record(message, *args, **extra):
    made = logging.LogRecord("omni.test", logging.WARNING, "here.py", 1, message, args, None)
    made.__dict__.update(extra)
    return made


def test_a_json_line_has_the_fields_of_the_call():
    line = orjson.loads(JsonFormatter().format(record("ended %s", "x", fields={"job_id": "j", "request_id": "r"})))
    assert line["message"] == "ended x" and line["level"] == "warning"
    assert (line["job_id"], line["request_id"]) == ("j", "r")


@pytest.mark.parametrize("formatter", [JsonFormatter(), PlainFormatter()])
def test_control_characters_cannot_forge_a_line(formatter):
    text = formatter.format(record("a\r\nfake line\x1b[31m"))
    assert "\n" not in text and "\r" not in text and "\x1b" not in text


@pytest.mark.parametrize("formatter", [JsonFormatter(), PlainFormatter()])
def test_an_exception_is_logged_by_type_and_place_without_its_text(formatter):
    try:
        raise KeyError("-".join(("canary", "text")))
    except KeyError:
        text = formatter.format(record("failed", exc_info=sys.exc_info(), exc_text=None))
    assert "KeyError" in text and "test_logs.py" in text and "canary-text" not in text
