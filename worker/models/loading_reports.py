"""Redirects what transformers reports while it loads a model: its progress to ours, its log to debug.

Its log has reports of many lines; worker/load_failure.py has one sentence for each fault.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from transformers.utils import logging as transformers_logging

from worker.progress import KERNELS, WEIGHTS, OnProgress, counted

logger = logging.getLogger(__name__)


class DebugHandler(logging.Handler):
    """Repeats records at debug level."""

    def emit(self, record: logging.LogRecord) -> None:
        logger.debug("%s", record.getMessage())


@contextmanager
def logs_at_debug() -> Iterator[None]:
    """While active, log transformers' records at debug. Also a decorator."""
    library, handler = transformers_logging.get_logger(), DebugHandler()
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


@contextmanager
def reports_weights(on_progress: OnProgress, begin: float = WEIGHTS) -> Iterator[None]:
    """While active, the progress bar that counts a model's weights calls `on_progress`; others stay as they are.

    `begin`: the share of the start that is done before.
    """

    def bar(make: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if not args or "weights" not in str(options.get("desc", "")):
            return make(*args, **options)
        return counted("weights", args[0], len(args[0]), (begin, KERNELS), on_progress)

    on_progress("weights", begin)
    before = transformers_logging.set_tqdm_hook(bar)
    try:
        yield
    finally:
        transformers_logging.set_tqdm_hook(before)
