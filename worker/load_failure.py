"""Ends a process whose model cannot be loaded, with one sentence, and decides whether to try again."""

import logging
import sys
from collections.abc import Iterator
from typing import NoReturn

import torch
from httpx2 import TransportError
from huggingface_hub import is_offline_mode
from huggingface_hub.errors import HfHubHTTPError
from torch.distributed import DistError

from common.process.child import EXIT_TRY_AGAIN
from common.settings import refuse
from worker.models.load_fault import reason

logger = logging.getLogger("omni.worker")

TOO_MANY_REQUESTS, SERVER_ERROR = 429, 500


def give_up(setting: str, error: Exception) -> NoReturn:
    """End this process with one sentence and the status that tells the supervisor whether to restart it."""
    logger.debug("the traceback", exc_info=error)
    if not is_passing(error):
        refuse(f"{setting} cannot be loaded: {reason(error)}")
    logger.error("%s cannot be loaded now; trying again: %s", setting, reason(error))
    sys.exit(EXIT_TRY_AGAIN)


def is_passing(error: BaseException) -> bool:
    """True if another attempt may succeed: a failed download, a full or lost GPU, a dead rank."""
    if isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError, DistError)):
        return True
    return not is_offline_mode() and any(is_broken_download(cause) for cause in causes(error))


def is_broken_download(error: BaseException) -> bool:
    if isinstance(error, HfHubHTTPError):
        status: int = error.response.status_code
        return status == TOO_MANY_REQUESTS or status >= SERVER_ERROR
    return isinstance(error, (TransportError, ConnectionError, TimeoutError))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and the chain of its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
