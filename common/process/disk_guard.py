"""Makes Valkey refuse writes while its disk is nearly full.

Valkey acknowledges a command before its write to the file fails, unless it syncs each one (docs/decisions/0010); killed
before there is room again, it loses that command. So writes are refused while acknowledged ones still fit, by
`min-replicas-to-write`, which Valkey without replicas cannot meet. Callers wait, as for a full disk.
"""

import logging
import shutil
import threading
import time
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

logger = logging.getLogger("omni.redis")

CHECK_S = 0.1
RESERVE = 64 * 2**20  # more than is written between two checks
SMALLEST_SHARE = 4  # on a small disk the reserve is a quarter of it
LOOSENED = 1.25  # writes are accepted again when 1.25 reserves are free


class DiskGuard(threading.Thread):
    """Checks ten times a second. `redis` must have a short timeout, because Valkey may be down."""

    def __init__(self, folder: Path, redis: "Redis") -> None:
        super().__init__(name="disk guard", daemon=True)
        self._folder = folder
        self._redis = redis
        self._refuses = False

    def run(self) -> None:
        while True:
            time.sleep(CHECK_S)
            self.check()

    def check(self) -> None:
        """Set the option again at each check while writes are refused: a restarted Valkey has lost it."""
        try:
            refuses = self._is_nearly_full()
            if refuses or self._refuses:
                self._redis.config_set("min-replicas-to-write", int(refuses))
                self._redis.close()  # Valkey ends when no client is connected
        except (OSError, RedisError) as error:
            logger.debug("the disk guard waits for Valkey: %s", error)
            return
        if refuses and not self._refuses:
            logger.error("the disk of %s is nearly full: requests are refused, answers wait for room", self._folder)
        if self._refuses and not refuses:
            logger.warning("the disk of %s has room again", self._folder)
        self._refuses = refuses

    def _is_nearly_full(self) -> bool:
        usage = shutil.disk_usage(self._folder)
        reserve = min(RESERVE, usage.total // SMALLEST_SHARE)
        return usage.free < reserve * (LOOSENED if self._refuses else 1)
