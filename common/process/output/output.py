"""Lines on their way to printers, none of which can hold up a process or another printer."""

import datetime
import queue
import threading
from contextlib import suppress

from common.process.honcho_seams import Message
from common.process.output.printers import GREETING, AnyPrinter

DRAIN_S = 1.0  # for the last lines
MAX_UNREAD = 10_000  # lines


class Lane:
    """One printer in a thread of its own; lines that it does not take in time are dropped."""

    def __init__(self, printer: AnyPrinter) -> None:
        self._printer = printer
        self._lines: queue.Queue[Message | None] = queue.Queue(MAX_UNREAD)
        self._thread = threading.Thread(target=self._print, name="output", daemon=True)
        self._thread.start()

    def put(self, message: Message | None) -> None:
        """Never blocks. None is the end."""
        with suppress(queue.Full):
            self._lines.put_nowait(message)

    def join(self) -> None:
        self._thread.join(DRAIN_S)

    def _print(self) -> None:
        with suppress(OSError):  # the reader has closed the pipe
            while (message := self._lines.get()) is not None:
                self._printer.write(message)


class Output:
    """write() never blocks."""

    def __init__(self, *printers: AnyPrinter) -> None:
        self._lanes = [Lane(printer) for printer in printers]

    def write(self, name: str, line: str | bytes, colour: str | None = None) -> None:
        self._put(Message("line", line, datetime.datetime.now(), name, colour))

    def greet(self, line: str) -> None:
        """The line that says that the service is ready; a terminal's printer has more to show."""
        self._put(Message(GREETING, line, datetime.datetime.now(), "system", None))

    def close(self) -> None:
        """Print the pending lines, for at most DRAIN_S a printer."""
        self._put(None)
        for lane in self._lanes:
            lane.join()

    def _put(self, message: Message | None) -> None:
        for lane in self._lanes:
            lane.put(message)
