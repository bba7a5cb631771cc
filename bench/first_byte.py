"""The time from a request's last byte to the first streamed text on an idle service, and the part outside the model.

    python -m bench.first_byte --base http://127.0.0.1:8000 --count 200

The model's share is measured beside it: the same engine, in this process, on the same prompt, from `add` to the first
event. Both run one after the other in each round, so that they see the same machine.
"""

import argparse
import http.client
import json
import statistics
import time
from dataclasses import replace
from urllib.parse import urlsplit

from api.prompt.conversation import Conversation
from api.prompt.encoder import PromptEncoder
from api.schema.chat import Message
from common.settings import load_settings
from common.wire import Delta, GenerationRequest, SamplingParams
from worker.configuration import engine_config
from worker.engine.engine import Engine
from worker.models.loader import LoadedModel, load

QUESTION = "What is {} plus {}?"


def first_text_ms(connection: http.client.HTTPConnection, text: str, key: str) -> float:
    body = json.dumps(
        {"model": "omni-demo", "messages": [{"role": "user", "content": text}], "stream": True, "max_tokens": 2}
    )
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    started = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", body, headers)
    response = connection.getresponse()
    while True:
        line = response.readline()
        if b'"content":"' in line and b'"content":""' not in line:
            elapsed = time.perf_counter() - started
            response.read()
            return elapsed * 1000
        if not line:
            raise RuntimeError(f"no text in the answer (status {response.status})")


def engine_ms(engine: Engine, encoder: PromptEncoder, text: str, number: int) -> float:
    ids = encoder.encode_chat(Conversation([Message(role="user", content=text)])).ids
    request = GenerationRequest(f"bench-{number}", "m", ids, SamplingParams(max_tokens=2, seed=number))
    started = time.perf_counter()
    engine.add(request)
    while not any(isinstance(event, Delta) and event.text for _, event in engine.step()):
        pass
    elapsed = time.perf_counter() - started
    while engine.has_work:
        engine.step()
    return elapsed * 1000


def load_beside(threads: int) -> tuple[LoadedModel, Engine]:
    settings = load_settings()
    config = replace(engine_config(settings), threads=threads)
    loaded = load(settings.model.source, settings.model.names, config, lambda what, share: None)
    return loaded, Engine(loaded, config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="http://127.0.0.1:8000")
    parser.add_argument("--key", default="sk-local")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    loaded, engine = load_beside(args.threads)
    encoder = PromptEncoder(loaded.card)
    url = urlsplit(args.base)
    connection = http.client.HTTPConnection(url.hostname or "127.0.0.1", url.port or 80)
    connection.connect()
    through: list[float] = []
    alone: list[float] = []
    for number in range(args.count + 20):
        text = QUESTION.format(number, number * 7 % 100)
        through.append(first_text_ms(connection, text, args.key))
        alone.append(engine_ms(engine, encoder, text, number))
    through, alone = through[20:], alone[20:]
    extra = [a - b for a, b in zip(through, alone, strict=True)]
    print(f"{args.count} requests, idle, one after the other; milliseconds")
    print("| | p50 | p99 |\n|---|---|---|")
    for name, values in (("first text through the service", through), ("engine alone", alone), ("difference", extra)):
        print(f"| {name} | {statistics.median(values):.2f} | {sorted(values)[int(0.99 * len(values))]:.2f} |")


if __name__ == "__main__":
    main()
