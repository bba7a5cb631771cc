"""Tasks: the parts of the dispatcher, each a loop in a thread of its own."""

import logging
import os
import signal
import threading
from collections.abc import Sequence
from typing import Protocol

from dispatcher.lease import Lease, LeaseLost

logger = logging.getLogger("omni.dispatcher")


class Task(Protocol):
    """One loop. It waits patiently for what is away: an exception means a fault, which ends the process."""

    @property
    def name(self) -> str: ...

    def run(self, stopping: threading.Event) -> None:
        """Work until `stopping` is set, then return within a second. What is unfinished must be safe to begin again."""


def run_all(lease: Lease, tasks: Sequence[Task]) -> int:
    """Run every task while the lease is held, until SIGTERM or SIGINT, or until one fails. Returns the exit status."""
    stopping, failed = threading.Event(), threading.Event()

    def guarded(task: Task) -> None:
        try:
            if task is lease or lease.wait(stopping):
                task.run(stopping)
        except LeaseLost as lost:
            logger.warning("%s: this process writes nothing more and starts again", lost)
            failed.set()
        except Exception:
            logger.exception("%s failed unexpectedly; the dispatcher starts again", task.name)
            failed.set()
        finally:
            if not stopping.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    threads = [threading.Thread(target=guarded, args=(task,), name=task.name, daemon=True) for task in (lease, *tasks)]
    for thread in threads:
        thread.start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})  # blocked in every thread: see main()
    stopping.set()
    for thread in threads:
        thread.join(2)
    return 1 if failed.is_set() else 0
