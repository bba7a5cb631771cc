"""Log lines, as JSON or plain text, with control characters escaped. Prompts and keys are never passed to a logger."""

import logging
import re
import sys
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from common.environment import log_format

CONTROLS = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029]")
OURS = ("omni", "api", "common", "dispatcher", "worker")  # first words of our loggers
# Of other exceptions only type and place are logged: their text may quote what a caller sent.
TELLING = (OSError, ImportError, MemoryError, RuntimeError)


class QuietFormatter(logging.Formatter):
    """Leaves out the texts of exceptions that may quote a request."""

    def formatException(self, ei: Any) -> str:
        kind, error, trace = ei
        frames = "".join(traceback.format_tb(trace))
        text = f": {error}" if isinstance(error, TELLING) else ""
        return f"{frames}{kind.__name__}{text}"


class JsonFormatter(QuietFormatter):
    """time, level, logger, message, and whatever the call put into `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


class PlainFormatter(QuietFormatter):
    """For a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {"level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return plain_line(fields)


def plain_line(fields: Mapping[str, Any]) -> str:
    """The message, with its level in front unless that is INFO; an exception in lines of its own."""
    level = fields.get("level", "info")
    text = escaped(f"{fields['message']}" if level == "info" else f"{level}: {fields['message']}")
    exception = "\n".join(map(escaped, str(fields.get("exception", "")).splitlines()))
    return f"{text}\n{exception}" if exception else text


def escaped(text: str) -> str:
    """Without control characters, which could forge a line."""
    return CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def set_up_logging(level_name: str) -> None:
    """Send the lines of this level and above to stdout. With "debug" libraries still say no more than with "info"."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(PlainFormatter() if log_format() == "plain" else JsonFormatter())
    level = logging.getLevelNamesMapping()[level_name.upper()]
    logging.basicConfig(level=max(level, logging.INFO), handlers=[handler], force=True)
    for name in OURS:
        logging.getLogger(name).setLevel(level)
    for noisy in ("rq.worker", "rq.job", "rq.queue", "httpx2", "alembic"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
