"""What transformers says while it loads: reports of many lines, kept at debug, as each fault has a sentence of ours."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging

logger = logging.getLogger(__name__)


class AtDebug(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logger.debug("%s", record.getMessage())


@contextmanager
def said_at_debug() -> Iterator[None]:
    """Also a decorator."""
    library, handler = transformers_logging.get_logger(), AtDebug()
    before = library.propagate
    transformers_logging.disable_default_handler()
    library.addHandler(handler)
    library.propagate = False
    try:
        yield
    finally:
        library.propagate = before
        library.removeHandler(handler)
        transformers_logging.enable_default_handler()
