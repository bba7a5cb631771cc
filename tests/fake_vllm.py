"""A vLLM server without a model: its wire over real HTTP, as read in vLLM 0.32's entrypoints/openai/completion.

The next token is a function of all tokens before it, of the seed, and of what the request asks to be done to the
scores; so whoever goes on from the same tokens in the same way arrives at the same text. It can die and come back.
"""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from tests.models import VOCAB_SIZE

MODEL = "elsewhere"


def scores_after(token_ids: Sequence[int], seed: int = 0) -> np.ndarray:
    """Logits [VOCAB_SIZE] of the next token."""
    return np.random.default_rng([seed, len(token_ids), *token_ids[-8:]]).normal(size=VOCAB_SIZE) * 3


def next_token(body: dict[str, Any], generated: Sequence[int]) -> int:
    """The token that vLLM's sampler would choose, with a seed in place of its noise."""
    scores = scores_after([*body["prompt"], *generated], body.get("seed", 0))
    if body.get("allowed_token_ids") is not None:
        assert 0 < len(body["allowed_token_ids"]) <= 1024
        kept = np.full(VOCAB_SIZE, -np.inf)
        kept[body["allowed_token_ids"]] = scores[body["allowed_token_ids"]]
        scores = kept
    if len(generated) < body["min_tokens"]:
        scores[body["stop_token_ids"]] = -np.inf
    for token_id, bias in body.get("logit_bias", {}).items():
        scores[int(token_id)] += bias
    for token_id, count in Counter(generated).items():
        scores[token_id] -= body["presence_penalty"] + body["frequency_penalty"] * count
    return int(scores.argmax())


class FakeVllm:
    """`url` stays the same when the server dies and returns. `faults`: names of faults for the next requests."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.step_s = step_s
        self.asked: list[dict[str, Any]] = []
        self.faults: list[Any] = []
        self.tokens_to_death: int | None = None
        self.is_sick = False
        self.kills_length = 0  # a prompt of so many tokens is too much for it
        self.num_open = 0  # answers being streamed
        self.died = threading.Event()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._server: Server | None = None
        self.port = 0
        self.revive()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def revive(self) -> None:
        self.died.clear()
        self.tokens_to_death = None
        self._server = Server(("127.0.0.1", self.port), self)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def die(self) -> None:
        """Like kill -9: every connection ends without a reply."""
        with self._lock:
            server, self._server = self._server, None
            sockets, self._sockets = self._sockets, set()
        if server is None:
            return
        for connection in sockets:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        server.shutdown()
        server.socket.close()
        self.died.set()

    def count_down(self) -> None:
        """Count one token; the server dies at the chosen one."""
        with self._lock:
            if self.tokens_to_death is not None:
                self.tokens_to_death -= 1
            is_due = self.tokens_to_death == 0
        if is_due:
            self.die()
            raise ConnectionAbortedError

    def hold(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.add(connection)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], owner: FakeVllm) -> None:
        self.owner = owner
        super().__init__(address, Handler)

    def handle_error(self, *_: Any) -> None:
        pass  # the other side left, or we died


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        self.server.owner.hold(self.request)
        super().setup()

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/health":
            self.send_json(503 if self.server.owner.is_sick else 200, {})
        else:
            self.send_json(200, {"object": "list", "data": [{"id": MODEL, "max_model_len": 200}]})

    def do_POST(self) -> None:
        owner = self.server.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        owner.asked.append(body)
        assert self.path == "/v1/completions" and body["model"] == MODEL and body["stream"] and body["ignore_eos"]
        fault = owner.faults.pop(0) if owner.faults else None
        if isinstance(fault, int):
            return self.send_json(fault, {"error": {"message": "not today", "type": "x", "code": fault}})
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if fault == "die" or len(body["prompt"]) == owner.kills_length:
            owner.die()
            raise ConnectionAbortedError  # also when another question was faster
        if fault is not None:
            self.send_data(fault if isinstance(fault, str) else json.dumps(fault))
        else:
            owner.num_open += 1
            try:
                for chunk in self.chunks(body):
                    self.send_data(json.dumps(chunk))
            finally:
                owner.num_open -= 1
        self.send_data("[DONE]")
        self.wfile.write(b"0\r\n\r\n")
        return None

    def chunks(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        generated: list[int] = []
        finish_reason = None
        while finish_reason is None:
            token_id = next_token(body, generated)
            generated.append(token_id)
            if token_id in body["stop_token_ids"] and len(generated) > body["min_tokens"]:
                finish_reason = "stop"
            elif len(generated) == body["max_tokens"]:
                finish_reason = "length"
            choice = {"index": 0, "text": "?", "token_ids": [token_id], "finish_reason": finish_reason}
            if "logprobs" in body:
                choice["logprobs"] = logprobs_of(body, generated)
            self.server.owner.count_down()
            yield {"id": "cmpl-1", "object": "text_completion", "choices": [choice]}
            time.sleep(self.server.owner.step_s)

    def send_data(self, data: str) -> None:
        frame = f"data: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(frame), frame))

    def send_json(self, status: int, body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


def logprobs_of(body: dict[str, Any], generated: Sequence[int]) -> dict[str, Any]:
    """Raw logprobs of the last token: the sampled one first, then the likeliest."""
    scores = scores_after([*body["prompt"], *generated[:-1]], body.get("seed", 0))
    values = scores - np.log(np.exp(scores).sum())
    drawn = generated[-1]
    top = [drawn, *np.argsort(-values)[: body["logprobs"]].tolist()]
    return {
        "tokens": [f"token_id:{drawn}"],
        "token_logprobs": [float(values[drawn])],
        "top_logprobs": [{f"token_id:{token_id}": float(values[token_id]) for token_id in top}],
    }
