"""Valkey takes no writes while its disk is nearly full.

A Valkey whose write fails has acknowledged it all the same, unless it syncs each one (docs/decisions/0010): killed
before there is room again, it has lost that. So it is told to refuse while what it has acknowledged still fits. It
refuses by `min-replicas-to-write`, as it has no replica: who asked waits, as for a disk that is full.
"""

import logging
import shutil
import threading
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

logger = logging.getLogger("omni.redis")

LOOK_S = 0.1
RESERVE = 64 * 2**20  # more than is written between two looks
SMALLEST_SHARE = 4  # on a small disk the reserve is this part of it
LOOSENED = 1.25  # writes are taken again when so many reserves are free


class DiskGuard(threading.Thread):
    """Looks ten times a second. `redis` must give up soon: it is asked while Valkey is away, too."""

    def __init__(self, folder: Path, redis: "Redis") -> None:
        super().__init__(name="disk guard", daemon=True)
        self._folder = folder
        self._redis = redis
        self._refuses = False

    def run(self) -> None:
        while True:
            time.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        """Repeated while it refuses: a Valkey that was started meanwhile knows nothing of it."""
        try:
            refuses = self._is_nearly_full()
            if refuses or self._refuses:
                self._redis.config_set("min-replicas-to-write", int(refuses))
                self._redis.close()  # Valkey leaves when nobody is connected
        except (OSError, RedisError) as error:
            logger.debug("the disk guard waits for Valkey: %s", error)
            return
        if refuses and not self._refuses:
            logger.error("the disk of %s is nearly full: nothing is accepted and answers wait for room", self._folder)
        if self._refuses and not refuses:
            logger.warning("the disk of %s has room again", self._folder)
        self._refuses = refuses

    def _is_nearly_full(self) -> bool:
        usage = shutil.disk_usage(self._folder)
        reserve = min(RESERVE, usage.total // SMALLEST_SHARE)
        return usage.free < reserve * (LOOSENED if self._refuses else 1)
