"""What a child says of itself on a pipe to its supervisor: `fence N`, `ready`, `begin` and `end` of each step."""

import os
import select
import time


class Watch:
    """The supervisor's end of one child's pipe; it outlives the child and serves its successor."""

    def __init__(self, step_timeout_s: float) -> None:
        self.read_fd, self.write_fd = os.pipe()
        os.set_blocking(self.read_fd, False)
        os.set_inheritable(self.write_fd, True)
        self.step_timeout_s = step_timeout_s
        self.fence = 0
        self.is_ready = False
        self._step_began: float | None = None
        self._rest = b""

    def listen(self, timeout_s: float = 0.0) -> bool:
        """Take in what was said; False when nothing was."""
        ready, _, _ = select.select([self.read_fd], [], [], timeout_s)
        if not ready:
            return False
        *lines, self._rest = (self._rest + os.read(self.read_fd, 65536)).split(b"\n")
        for line in lines:
            self._hear(line)
        return True

    def _hear(self, line: bytes) -> None:
        if line.startswith(b"fence "):
            self.fence = int(line[6:])
            self.is_ready = True
        elif line == b"ready":
            self.is_ready = True
        elif line == b"begin":
            self._step_began = time.monotonic()
        elif line == b"end":
            self._step_began = None

    @property
    def is_stuck(self) -> bool:
        return self._step_began is not None and time.monotonic() - self._step_began > self.step_timeout_s

    def forget_child(self) -> bool:
        """The child is dead: its last words count, the step it was in is over. Returns whether it had been ready."""
        while self.listen():
            pass
        was_ready, self.is_ready = self.is_ready, False
        self._step_began = None
        self._rest = b""
        return was_ready

    def close(self) -> None:
        os.close(self.read_fd)
        os.close(self.write_fd)
