"""A stand-in for the API with the faults of a real one. The page's tests choose the fault by the typed text.

The last user message picks the script: its first word is a key of SCRIPTS, anything else is echoed.
"""

import json
import mimetypes
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

STATIC = Path(__file__).parents[2] / "api" / "static"
CSP = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
KEY = "sk-local"
STEP_S = 0.02
NUM_SLOW = 80  # words of the answer that is long enough for a test to act during it

MARKDOWN = """Here is **bold**, `code` and a [link](https://example.com).

| planet | moons |
|---|---|
| Mars | 2 |

```python
def greet(name: str) -> str:
    return f"Hello, {name}"  # friendly
```

<img src=x onerror=alert(1)> <script>alert(2)</script>
[bad](javascript:alert(3)) ![pixel](https://example.com/x.png)

1. one
2. two
"""

SECTION = """## Part {number}

Some words on **part {number}** with `code`, a [link](https://example.com) and a formula, $x_{number}^2$.

- first
- second, with more words than the first one
- third

| name | value |
|---|--:|
| a | {number} |
| b | 1,204,000 |

```python
"""
CODE_LINE = "def f{number}(value: int) -> str:  # one of many\n    return 'a' * value + \"{number}\"\n"
LONG = "".join(
    SECTION.replace("{number}", str(part))
    + "".join(CODE_LINE.replace("{number}", str(line)) for line in range(600 if part == 5 else 8))
    + "```\n\n"
    for part in range(45)
)  # 20,000 tokens, of which one block of code has 45,000 characters


def words(text: str) -> list[dict[str, Any]]:
    return [{"content": part} for part in text.replace("\n", "\n\0").replace(" ", " \0").split("\0")]


def text_of(content: str | list[dict[str, Any]]) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def tool_call() -> list[dict[str, Any]]:
    head = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    parts = ['{"city"', ': "Par', 'is"}']
    return [{"tool_calls": [head]}] + [
        {"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in parts
    ]


AWAY_AFTER = {"away": 0, "pause": 10}  # frames after which the answer waits for its model

SCRIPTS = {
    "markdown": lambda: words(MARKDOWN),
    "reason": lambda: [{"reasoning_content": "Let me think. "}, {"reasoning_content": "2 + 2."}, *words("It is 4.")],
    "muse": lambda: [{"reasoning_content": "Hm. "}] * NUM_SLOW,
    "tool": tool_call,
    "cut": lambda: tool_call()[:-1],
    "long": lambda: words(LONG),
    "slow": lambda: words(" ".join(f"w{number}" for number in range(NUM_SLOW))),
    "drop": lambda: words(" ".join(f"w{number}" for number in range(60))),
    "on": lambda: words(" and so on."),
    "queue": lambda: words("My turn at last."),
    "away": lambda: words("Loaded at last."),
    "pause": lambda: words(" ".join(f"w{number}" for number in range(NUM_SLOW))),
    "fail": lambda: [
        *words("Half an answer"),
        {"error": {"message": "CUDA out of memory", "code": 500, "param": None}},
    ],
}


Script = Callable[[], list[dict[str, Any]]]


class Job:
    """An answer that is generated with or without a reader."""

    def __init__(self, job_id: str, text: str, model: str, scripts: Mapping[str, Script]) -> None:
        self.id = job_id
        self.model = model
        self.num_prompt = 0
        self.question = text.rpartition("\n\n")[2]  # without the files before it
        self.kind = text.split(" ")[0]
        self.deltas = scripts[self.question]() if self.question in scripts else self.script(text)
        self.step_s = STEP_S / 40 if self.kind == "long" or self.question in scripts else STEP_S
        self.made = [self.frame(delta) for delta in self.deltas]
        self.started = time.monotonic() + (1.5 if self.kind == "queue" else 0.1)
        self.cancelled = False
        self.is_dropped = False
        self.has_ids = False

    def script(self, text: str) -> list[dict[str, Any]]:
        return SCRIPTS[self.kind]() if self.kind in SCRIPTS else words(f"You said: {text}")

    def frames(self) -> list[dict[str, Any]]:
        """The frames generated so far."""
        num_made = max(0, int((time.monotonic() - self.started) / self.step_s))
        made = self.made[:num_made]
        if num_made <= len(self.deltas):
            return made
        has_calls = any("tool_calls" in delta for delta in self.deltas)
        last = "length" if self.kind == "cut" else "tool_calls" if has_calls else "stop"
        usage = {"prompt_tokens": self.num_prompt, "completion_tokens": len(self.deltas)}
        usage["total_tokens"] = sum(usage.values())
        return [*made, self.frame({}, last), {"id": self.id, "model": self.model, "choices": [], "usage": usage}]

    def frame(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        if "error" in delta:
            return delta
        return {
            "id": self.id,
            "model": self.model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
        }


class Backend(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.numbers = count(1)
        self.jobs: dict[str, Job] = {}
        self.by_idempotency_key: dict[str, Job] = {}
        self.log: list[str] = []  # "METHOD path", in order
        self.bodies: list[dict[str, Any]] = []
        self.refusals: list[
            tuple[int, dict[str, Any]]
        ] = []  # with `retry_after` as a header; given to the next POSTs instead of an answer
        self.board: dict[str, Any] = {}
        self.models: list[dict[str, Any]] = [{"id": "fake", "root": "a script"}, {"id": "other", "root": "none"}]
        self.documents: dict[str, Any] = {}  # what else GET answers, by path
        self.count: Callable[[dict[str, Any]], int] = lambda body: 7  # the tokens of a request
        self.scripts: dict[str, Script] = {}  # answers to whole messages, told at once
        self.holds: dict[
            str, int
        ] = {}  # after so many frames such an answer waits for `goes_on`; before the first, in the queue
        self.goes_on = threading.Event()  # answers of "away" wait for it, and those of "pause" in their middle

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Backend

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        pages = {"/": "index.html", "/board": "board.html", "/batches": "batches.html", "/docs": "reference.html"}
        if path in pages or path.startswith("/static/"):
            return self.send_file(STATIC / pages.get(path, path.removeprefix("/static/")))
        self.server.log.append(f"GET {self.path}")
        if path in self.server.documents:
            return self.send_json(200, self.server.documents[path])
        if self.is_refused():
            return None
        if path == "/v1/models":
            return self.send_json(200, {"data": self.server.models})
        if path == "/admin/board":
            return self.stream_board()
        job = self.server.jobs.get(path.rsplit("/", 1)[-1])
        if job is None:
            return self.send_json(404, {"error": {"message": "There is no such job.", "code": "not_found"}})
        after = dict(part.split("=") for part in query.split("&")).get("starting_after", "0")
        return self.stream(job, int(after))

    def do_POST(self) -> None:
        self.server.log.append(f"POST {self.path}")
        if self.path.startswith("/v1/models/"):
            return self.send_json(202, {})
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            return self.send_json(200, {"count": self.server.count(body)})
        self.server.bodies.append(body)
        if self.is_refused():
            return None
        if self.server.refusals:
            status, error = self.server.refusals.pop(0)
            return self.send_json(status, {"error": error}, {"Retry-After": str(error.get("retry_after", ""))})
        key = self.headers["Idempotency-Key"]
        job = self.server.by_idempotency_key.get(key)
        if job is None:
            text = "on" if body.get("continue_final_message") else text_of(body["messages"][-1]["content"])
            job = Job(f"chatcmpl-{next(self.server.numbers)}", text, body["model"], self.server.scripts)
            job.num_prompt = self.server.count(body)
            job.has_ids = bool(body["stream_options"].get("include_event_ids"))
            self.server.by_idempotency_key[key] = self.server.jobs[job.id] = job
            if job.kind == "unheard":
                self.close_connection = True
                return None
        return self.stream(job, 0)

    def do_DELETE(self) -> None:
        self.server.log.append(f"DELETE {self.path}")
        job = self.server.jobs.get(self.path.rsplit("/", 1)[-1])
        if job:
            job.cancelled = True
        self.send_json(200, {"deleted": job is not None})

    def is_refused(self) -> bool:
        if self.headers["Authorization"] == f"Bearer {KEY}":
            return False
        self.send_json(401, {"error": {"message": "Incorrect API key provided.", "code": "invalid_api_key"}})
        return True

    def stream(self, job: Job, after: int) -> None:
        self.start_stream({"Omni-Job-Id": job.id})
        sent = after
        while not job.cancelled:
            if (wait := job.started - time.monotonic()) > 0.2:
                self.write(f": queued position={1 + int(wait / 0.5)} eta={round(wait)} tier=flex\n\n")
            elif job.kind == "queue" and not self.server.goes_on.is_set():
                self.write(": queued position=0 tier=flex\n\n")
                self.server.goes_on.wait(60)
            hold = None if self.server.goes_on.is_set() else self.server.holds.get(job.question)
            frames = job.frames()[:hold]
            if hold == 0:
                self.write(": queued position=3 eta=12 tier=default\n\n")
            for number, frame in enumerate(frames[sent:], sent + 1):
                name = f"id: {number}\n" if job.has_ids and "error" not in frame else ""
                self.write(f"{name}data: {json.dumps(frame)}\n\n")
            sent = max(sent, len(frames))
            if sent > 20 and job.kind == "drop" and not job.is_dropped:
                job.is_dropped = True
                return None
            if sent >= AWAY_AFTER.get(job.kind, sent + 1) and not self.server.goes_on.is_set():
                self.write(": queued position=1\n\n: swapped out, model=a-7b, eta=12\n\n")
                self.write(": loading model=a-7b progress=0.4 eta=3\n\n" if sent else "")
                self.server.goes_on.wait(60)
            if len(frames) == len(job.deltas) + 2:
                return self.write("data: [DONE]\n\n")
            time.sleep(STEP_S)

    def stream_board(self) -> None:
        self.start_stream({})
        for _ in range(600):
            self.write(f"data: {json.dumps(self.server.board | {'time': time.time()})}\n\n")
            time.sleep(0.1)

    def start_stream(self, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in {"Content-Type": "text/event-stream", "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True

    def write(self, text: str) -> None:
        self.wfile.write(text.encode())

    def send_json(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        self.send_body(status, "application/json", json.dumps(body).encode(), headers or {})

    def send_file(self, path: Path) -> None:
        if not path.is_file():
            return self.send_json(404, {"error": {"message": "Not found"}})
        return self.send_body(200, mimetypes.guess_type(path)[0] or "text/plain", path.read_bytes(), {})

    def send_body(self, status: int, kind: str, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Security-Policy", CSP)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            pass  # the page left


@contextmanager
def fake_backend() -> Iterator[Backend]:
    with Backend() as backend:
        threading.Thread(target=backend.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield backend
        backend.shutdown()
