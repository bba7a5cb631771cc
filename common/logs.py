"""Log lines: JSON, one a line, control characters escaped. No prompt and no key is ever given to a logger."""

import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson

CONTROLS = (*range(32), *range(127, 160), 0x2028, 0x2029)
VISIBLE = {code: repr(chr(code))[1:-1] for code in CONTROLS}
# Of other exceptions only the type and the place are written: their text may quote what a caller sent.
TELLING = (OSError, ImportError, MemoryError, RuntimeError)


class QuietFormatter(logging.Formatter):
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
    """For people at a terminal: the message, with what matters in front."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{level}{record.getMessage()}".translate(VISIBLE)
        return text if not record.exc_info else f"{text}\n{self.formatException(record.exc_info)}"


def set_up_logging(log_format: str) -> None:
    """JSON lines for machines ("json"), or plain ones for people ("plain")."""
    handler = logging.StreamHandler(sys.stdout)
    plain = log_format == "plain"
    handler.setFormatter(PlainFormatter() if plain else JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("rq.worker", "rq.job", "rq.queue", "httpx2"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
