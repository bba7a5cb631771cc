"""The fields of a log line; prompts and keys never appear in one."""

import logging
import sys

import orjson
import pytest

from common.logs import JsonFormatter, PlainFormatter, set_up_logging


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


@pytest.mark.parametrize(("level", "ours", "others"), [("debug", 10, 20), ("info", 20, 20), ("error", 40, 40)])
def test_the_level_is_of_our_lines_and_libraries_say_no_more_than_with_info(level, ours, others):
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        set_up_logging(level)
        assert {logging.getLogger(name).getEffectiveLevel() for name in ("omni.api", "worker.models.loader")} == {ours}
        assert logging.getLogger("gunicorn").getEffectiveLevel() == others
        assert logging.getLogger("rq.worker").getEffectiveLevel() == max(others, logging.WARNING)
    finally:
        set_up_logging("info")
        root.handlers[:], root.level = before
