"""Log lines: JSON, one a line, control characters escaped. No prompt and no key is ever given to a logger."""

import logging
import sys
from datetime import UTC, datetime

import orjson


class JsonFormatter(logging.Formatter):
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


class PlainFormatter(logging.Formatter):
    """For people at a terminal: the message, with what matters in front."""

    def format(self, record: logging.LogRecord) -> str:
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{level}{record.getMessage()}".replace("\r", "\\r").replace("\n", "\\n")
        return text if not record.exc_info else f"{text}\n{self.formatException(record.exc_info)}"


def set_up_logging(log_format: str) -> None:
    """JSON lines for machines ("json"), or plain ones for people ("plain")."""
    handler = logging.StreamHandler(sys.stdout)
    plain = log_format == "plain"
    handler.setFormatter(PlainFormatter() if plain else JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("rq.worker", "rq.job", "rq.queue", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
