"""Hostile requests, generated from a seed: at the parser in this process, or over HTTP at a running service.

    python -m bench.hostile --size 1000000                                     # in-process, no service needed
    python -m bench.hostile --size 50000 --url http://127.0.0.1:8000 --key sk-local -c 16
    python -m bench.hostile --standstill                                       # see bench/standstill.py

Every answer must be ours: a typed refusal or an acceptance, never an unexpected exception, never a 5xx.
"""

import argparse
import http.client
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from bench import standstill
from bench.large_bodies import LARGEST

NUMBERS = (0, -1, 1, 0.5, -0.0, 1e308, -1e308, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 1e-320, 16, 17, True, False)
TEXTS = (
    "", " ", "\0", "\ud7ff", "\ufffe", "a" * 300, "🙂" * 50, "\u202e", "<|im_start|>", "<|endoftext|>", "{{7*7}}",
    "../..",     "{% for i in range(10**9) %}x{% endfor %}", "'; DROP TABLE jobs;--", "\r\nSet-Cookie: a=b", "$ref",
    "__class__", "NaN",     "http://169.254.169.254/latest", "data:image/png;base64,AAAA",
    "file:///etc/passwd", "\x1b[31m", "system",
    "omni-demo",
)  # fmt: skip
FIELDS = """
model messages temperature top_p top_k min_p n max_tokens max_completion_tokens stop seed stream stream_options
logprobs top_logprobs logit_bias presence_penalty frequency_penalty tools tool_choice response_format
chat_template_kwargs chat_template modalities timeout priority user repetition_penalty min_tokens stop_token_ids
ignore_eos parallel_tool_calls reasoning_effort add_generation_prompt continue_final_message metadata functions
structured_outputs guided_json __proto__
""".split()
RAW = (
    b"", b"null", b"[]", b"1", b'"x"', b"{", b"}", b"{]", b'{"a":NaN}', b'{"a":Infinity}', b'{"a":1e999}',
    b"[" * 100_000,     b'{"a":' * 5000 + b"1" + b"}" * 5000, b'{"a":"\\ud800"}', b'{"a":"\xff\xfe"}',
    b"\xff\xfe{\0}\0",
    b'{"model":"x","model":"y"}', b'{"n":' + b"9" * 5000 + b"}", b'{"n":-0}', b"\0" * 64, b'{"a":1}{"b":2}',
    b'{"a":1,}',     b"{'a':1}", b'{"a":01}', b'{"a":"\t"}', b'{"messages":[' + b"{}," * 10_000 + b"{}]}", b'{"":""}',
)  # fmt: skip
OWN_TIMEOUT = "504, as its own 'timeout' asks"


class Hostile:
    """An endless supply of bodies, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def body(self) -> bytes:
        """Mostly a good request with something wrong in it: garbage alone never gets past the first check."""
        draw = self.random.random()
        if draw < 0.05:
            return self.random.choice(RAW)
        request = self.request()
        for _ in range(self.random.randrange(1, 4)):
            self.spoil(request)
        raw = json.dumps(request, ensure_ascii=self.random.random() < 0.5).encode("utf-8", "surrogatepass")
        return self.damage(raw) if draw < 0.25 else raw

    def request(self) -> dict[str, Any]:
        return {"model": "omni-demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}

    def spoil(self, request: dict[str, Any]) -> None:
        """Put a wrong value somewhere: at a known field, or deep inside."""
        if self.random.random() < 0.6:
            request[self.random.choice(FIELDS)] = self.value(3)
            return
        messages = request.get("messages")
        if isinstance(messages, list) and messages and isinstance(messages[0], dict):
            name = self.random.choice(("role", "content", "name", "tool_calls", "tool_call_id", "reasoning"))
            messages[0][name] = self.value(3)
            if self.random.random() < 0.2:
                request["messages"] = messages * self.random.randrange(1, 50)

    def value(self, depth: int) -> Any:
        draw = self.random.random()
        if draw < 0.35:
            return self.random.choice(NUMBERS)
        if draw < 0.7 or depth == 0:
            return self.random.choice(TEXTS)
        if draw < 0.75:
            return None
        if draw < 0.87:
            return [self.value(depth - 1) for _ in range(self.random.randrange(4))]
        names = (
            *FIELDS,
            *TEXTS,
            "type",
            "function",
            "name",
            "parameters",
            "json_schema",
            "schema",
            "text",
            "image_url",
        )
        return {self.random.choice(names): self.value(depth - 1) for _ in range(self.random.randrange(4))}

    def damage(self, raw: bytes) -> bytes:
        """Flip, cut, double."""
        cut = self.random.randrange(len(raw))
        kind = self.random.randrange(4)
        if kind == 0:
            return raw[:cut]
        if kind == 1:
            return raw[:cut] + bytes([self.random.randrange(256)]) + raw[cut + 1 :]
        if kind == 2:
            return raw[:cut] + raw[cut // 2 : cut] + raw[cut:]
        return raw[:cut] + self.random.choice(RAW)[:200] + raw[cut:]


def in_process(bodies: Iterator[bytes], submit: Callable[[bytes], None]) -> Counter[str]:
    """Outcomes by name; an exception that is not ours ends the run."""
    from common.errors import OmniError

    outcomes: Counter[str] = Counter()
    for raw in bodies:
        try:
            submit(raw)
            outcomes["accepted"] += 1
        except OmniError as error:
            outcomes[error.code] += 1
        except Exception:
            print(f"not our error for {raw[:500]!r}", file=sys.stderr)
            raise
    return outcomes


def gate() -> Callable[[bytes], None]:
    """The way of a body from bytes to a request that would be enqueued, with the demo model."""
    from api.chat.prepare import chat_input
    from api.gate.json_object import parse_object
    from api.prompt.encoder import PromptEncoder
    from api.schema.chat import ChatRequest
    from api.schema.parse import parse
    from common.grammar.check import GrammarCheck
    from common.settings import DEMO_MODEL
    from common.wire import ModelCard

    card = ModelCard(
        queue="omni-demo", names=("omni-demo",), root="demo", revision="1", architecture="llama", max_model_len=1024,
        vocab_size=json.loads((DEMO_MODEL / "config.json").read_text())["vocab_size"], created=0,
        tokenizer=(DEMO_MODEL / "tokenizer.json").read_text(),
        chat_template=(DEMO_MODEL / "chat_template.jinja").read_text(),
    )  # fmt: skip
    encoder, grammars = PromptEncoder(card), GrammarCheck()

    def submit(raw: bytes) -> None:
        chat_input(parse(ChatRequest, parse_object(raw)), encoder, grammars)

    return submit


def posted(connection: http.client.HTTPConnection, raw: bytes, headers: dict[str, str]) -> http.client.HTTPResponse:
    """POST on a kept connection, which is reopened once if the server has closed it. Raises OSError."""
    is_kept = connection.sock is not None
    try:
        connection.request("POST", "/v1/chat/completions", raw, headers)
        return connection.getresponse()
    except OSError:
        if not is_kept:
            raise
        connection.close()
        connection.request("POST", "/v1/chat/completions", raw, headers)
        return connection.getresponse()


def over_http(seed: int, size: int, url: str, key: str, num_clients: int) -> Counter[str]:
    """Counts of statuses and of broken connections."""
    outcomes: Counter[str] = Counter()
    lock = threading.Lock()

    def client(number: int) -> None:
        supply, mine = Hostile(seed + number), Counter[str]()
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        for _ in range(size // num_clients):
            raw = supply.body()
            try:
                answer = posted(connection, raw, headers)
                answer.read()
                is_own_timeout = answer.status == 504 and b'"timeout"' in raw
                mine[OWN_TIMEOUT if is_own_timeout else str(answer.status)] += 1
                if answer.status >= 500 and not is_own_timeout:
                    print(f"{answer.status} for {raw[:500]!r}", file=sys.stderr)
            except (OSError, http.client.HTTPException) as error:
                mine[type(error).__name__] += 1
                connection.close()
        with lock:
            outcomes.update(mine)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(num_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--url", help="over HTTP, at this service")
    parser.add_argument("--key", default="sk-local")
    parser.add_argument("-c", "--clients", type=int, default=8)
    parser.add_argument("--standstill", action="store_true", help="how long large requests keep others waiting")
    parser.add_argument("--bytes", type=int, default=LARGEST, help="with --standstill: the size of each body")
    parser.add_argument("--only", default="", help="with --standstill: words of the kinds' names, with commas")
    args = parser.parse_args()
    if args.standstill:
        standstill.report(args.bytes, [word for word in args.only.split(",") if word])
        return 0
    began = time.monotonic()
    if args.url:
        outcomes = over_http(args.seed, args.size, args.url, args.key, args.clients)
    else:
        supply = Hostile(args.seed)
        outcomes = in_process((supply.body() for _ in range(args.size)), gate())
    elapsed_s = time.monotonic() - began
    print(f"{outcomes.total():,} requests in {elapsed_s:.0f} s ({outcomes.total() / elapsed_s:,.0f}/s)")
    for name, number in outcomes.most_common():
        print(f"{number:>10,}  {name}")
    wrong = [name for name in outcomes if name != OWN_TIMEOUT and (name.startswith("5") or not name.isdigit())]
    return int(bool(wrong) if args.url else 0)


if __name__ == "__main__":
    sys.exit(main())
