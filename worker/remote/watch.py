"""Watches if the server behind a remote engine can be used."""

import logging
import threading
from collections.abc import Callable

from worker.remote.client import Away, Served, VllmClient

logger = logging.getLogger("omni.worker")

CHECK_S = 2.0  # between checks while the server is up
RETRY_S = 0.25  # while it is away


class BackendWatch(threading.Thread):
    """Checks the server every CHECK_S, more often while it is away. Calls `on_back` when it has come back."""

    def __init__(self, client: VllmClient, served: Served, on_back: Callable[[], None]) -> None:
        super().__init__(name="backend-watch", daemon=True)
        self.served = served
        self.is_away = False
        self._client = client
        self._on_back = on_back
        self._doubted = threading.Event()
        self._is_stopped = False

    def run(self) -> None:
        while not self._is_stopped:
            self._doubted.wait(RETRY_S if self.is_away else CHECK_S)
            if self._doubted.is_set():
                self._doubted.clear()
                threading.Event().wait(RETRY_S)  # a dying server still answers for a moment
            self.check()

    def stop(self) -> None:
        self._is_stopped = True
        self._doubted.set()

    def doubt(self, reason: str) -> None:
        """An answer broke off: treat the server as away until a check succeeds."""
        self._note_away(reason)
        self._doubted.set()

    def check(self) -> None:
        """Ask the server for its model, and note if it is away or back."""
        try:
            found = self._client.served()
        except Away as error:
            self._note_away(str(error))
            return
        if found.model != self.served.model:
            self._note_away(f"it serves {found.model!r} now, not {self.served.model!r}")
        elif (found.max_model_len or 2**62) < (self.served.max_model_len or 0):
            self._note_away(f"its sequences end at {found.max_model_len} tokens now, not {self.served.max_model_len}")
        elif self.is_away:
            self.is_away = False
            logger.info("the engine at %s is back", self._client.url)
            self._on_back()

    def _note_away(self, reason: str) -> None:
        if not self.is_away:
            logger.warning("the engine at %s is away (%s); its sequences wait", self._client.url, reason)
        self.is_away = True
