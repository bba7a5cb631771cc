"""The end of the start: once the service answers, a box on the terminal says where, or one line of JSON elsewhere."""

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

from common.process.output.output import Output

POLL_S = 0.3
ANSWER_S = 5.0
READY = 200
FRAME, PLAIN_FRAME = tuple("╭─╮│╰╯"), tuple("+-+|++")


@dataclass(frozen=True, slots=True)
class Greeting:
    """What the runner, which loads no settings, is told of them."""

    log: str  # the file for the lines
    health: str  # the address that answers with 200 when the service is ready; empty: nobody is to be told
    title: str
    rows: tuple[tuple[str, str], ...]  # label and text; without what only a terminal may show
    key: str  # for a terminal

    def encoded(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decoded(cls, text: bytes) -> "Greeting":
        fields = json.loads(text)
        return cls(**fields | {"rows": tuple(map(tuple, fields["rows"]))})

    def box(self, width: int, *, is_unicode: bool) -> list[str]:
        """Framed lines, or bare ones where the terminal is too narrow."""
        at = 1 + [label for label, _ in self.rows].index("API")
        rows = [*self.rows[:at], ("key", self.key), *self.rows[at:]]
        lines = [f"{label:10} {text}" for label, text in rows]
        return framed(self.title, lines, width, FRAME if is_unicode else PLAIN_FRAME)

    def line(self) -> str:
        told = {"level": "info", "logger": "omni.start", "message": self.title}
        return json.dumps(told | dict(self.rows), ensure_ascii=False)


def framed(title: str, lines: Sequence[str], width: int, frame: Sequence[str]) -> list[str]:
    inner = max(len(title) + 1, *map(len, lines))
    if inner + 4 > width:
        return [title, *lines]
    left, bar, right, side, low_left, low_right = frame
    head = f"{left}{bar} {title} {bar * (inner - len(title) - 1)}{right}"
    body = [f"{side} {line:{inner}} {side}" for line in lines]
    return [head, *body, f"{low_left}{bar * (inner + 2)}{low_right}"]


def greet_when_ready(greeting: Greeting, output: Output) -> None:
    """In a thread of its own, which ends with the process."""

    def greet() -> None:
        pause = threading.Event()
        while not is_ready(greeting.health):
            pause.wait(POLL_S)
        output.greet(greeting.line())

    if greeting.health:
        threading.Thread(target=greet, name="greeting", daemon=True).start()


def is_ready(url: str) -> bool:
    """Asks without the proxy of the environment: it is this machine."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_S)
    try:
        connection.request("GET", parts.path)
        return connection.getresponse().status == READY
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
