"""Requests of the largest size that is allowed, each of which asks for as much of one kind of work as it can."""

import base64
import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

MODEL = "fake"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
LARGEST = 8 * 1024 * 1024 - 4096


@dataclass(frozen=True, slots=True)
class Body:
    """One request; `chunk` is the size of the pieces of a chunked upload, 0 for a plain one."""

    name: str
    path: str
    raw: bytes
    chunk: int = 0
    method: str = "POST"


class Largest:
    """Builders of values that take about `size` bytes of JSON."""

    def __init__(self, size: int) -> None:
        self.size = size

    def fitted(self, one: Callable[[int], Any], most: int = 10**9) -> list[Any]:
        """As many of these as fit."""
        length = len(json.dumps(one(10**6))) + 2
        return [one(number) for number in range(min(most, self.size // length))]

    def text(self, piece: str) -> str:
        return piece * (self.size // len(piece.encode()))

    def picture(self) -> str:
        """A data URL: noise, which does not compress."""
        side = max(8, int((min(self.size, 5_000_000) * 0.7 / 3) ** 0.5))
        image = Image.frombytes("RGB", (side, side), random.Random(1).randbytes(side * side * 3))
        return data_url(image, "PNG")


def data_url(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def chat(content: Any = "Hi", **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], "max_tokens": 1, "timeout": 2} | fields


def bodies(size: int = LARGEST) -> Iterator[Body]:
    """Every kind, at `size` bytes each."""
    largest = Largest(size)
    for kinds in (of_shapes, of_texts, of_chats, of_counts, of_schemas, of_tokens, of_other_forms, of_uploads):
        yield from kinds(largest)


def of_shapes(largest: Largest) -> Iterator[Body]:
    """For the parser."""
    names = ",".join(f'"k{number}":1' for number in range(largest.size // 14))
    last = names.rpartition(",")[2]
    yield Body("repeated name", CHAT, b'{"model":"fake",%s,%s}' % (names.encode(), last.encode()))
    yield Body("wide object", CHAT, b'{"model":"fake",%s}' % names.encode())
    yield Body("wide list of numbers", CHAT, b'{"a":[%s0]}' % (b"0," * (largest.size // 2)))
    yield Body("wide list of objects", CHAT, b'{"a":[%s0]}' % (b"{}," * (largest.size // 3)))
    yield Body("wide list of texts", CHAT, b'{"a":[%s0]}' % (b'"",' * (largest.size // 3)))
    yield Body("nested lists", CHAT, b'{"a":[%s0]}' % ((b"[" * 60 + b"]" * 60 + b",") * min(6500, largest.size // 121)))
    yield Body("lists of one number", CHAT, b'{"a":[%s0]}' % (b"[1]," * min(195_000, largest.size // 4)))
    most = b",".join([b"[" * 60 + b"]" * 60] * 1088)
    yield Body("as many nested lists as are taken", CHAT, dumped(chat("Hi"))[:-1] + b',"a":[%s]}' % most)
    yield Body("deep", CHAT, b'{"a":' * (largest.size // 6) + b"1" + b"}" * (largest.size // 6))
    yield Body("long numbers", CHAT, b'{"a":[%s0]}' % (b"12345678901234567890," * (largest.size // 21)))
    yield Body("backslashes", CHAT, dumped(chat("\\" * (largest.size // 2))))
    yield Body("spaces between values", CHAT, b'{"model":"fake",%s"a":1}' % (b" " * largest.size))
    yield Body("metadata", CHAT, dumped(chat(metadata={f"k{n}": "v" for n in range(largest.size // 16)})))


def of_texts(largest: Largest) -> Iterator[Body]:
    noise = base64.b64encode(random.Random(2).randbytes(largest.size * 3 // 4)).decode()
    texts = {
        "words": largest.text("the quick brown fox "),
        "one character": largest.text("a"),
        "base64": noise,
        "unicode": largest.text("憂鬱な🦊é"),
        "spaces": largest.text(" "),
        "names of special tokens": largest.text("<|im_start|>"),
        "brackets": largest.text("a < b <| "),
    }
    for name, text in texts.items():
        yield Body(f"chat: {name}", CHAT, dumped(chat(text)))
        yield Body(f"/tokenize: {name}", "/tokenize", dumped({"model": MODEL, "prompt": text}))
        yield Body(f"completions: {name}", TEXT, dumped({"model": MODEL, "prompt": text, "max_tokens": 1}))


def of_chats(largest: Largest) -> Iterator[Body]:
    turn = {"role": "user", "content": "Hello there"}
    yield Body("many messages", CHAT, dumped(chat(messages=largest.fitted(lambda _: turn, 100_000))))
    room = max(1, largest.size // 4096 - 40)
    yield Body("4,096 messages", CHAT, dumped(chat(messages=[{"role": "user", "content": "a " * (room // 2)}] * 4096)))
    yield Body("many parts", CHAT, dumped(chat(largest.fitted(lambda _: {"type": "text", "text": "a"}))))
    yield Body("many bad parts", CHAT, dumped(chat(largest.fitted(lambda _: {"typ": "text"}))))
    calls = largest.fitted(lambda n: {"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}})
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": calls}]
    yield Body("many tool calls", CHAT, dumped(chat(messages=said)))
    wide = json.dumps({f"k{n}": n for n in range(largest.size // 24)})
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": wide}}
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]}]
    yield Body("wide arguments of a call", CHAT, dumped(chat(messages=said)))
    yield Body("logit_bias", CHAT, dumped(chat(logit_bias={str(n): 1 for n in range(largest.size // 12)})))
    yield Body("stop", CHAT, dumped(chat(stop=largest.fitted(lambda n: f"stop{n}"))))
    pictures = [{"type": "image_url", "image_url": {"url": largest.picture()}}]
    yield Body("a large image", CHAT, dumped(chat(pictures)))
    bomb = data_url(Image.new("RGB", (4096, 4096)), "PNG")
    bombs = largest.fitted(lambda _: {"type": "image_url", "image_url": {"url": bomb}}, 8)
    yield Body("images that unpack to 50 MB", CHAT, dumped(chat(bombs)))
    small = {"type": "image_url", "image_url": {"url": data_url(Image.new("RGB", (8, 8)), "PNG")}}
    yield Body("many small images", CHAT, dumped(chat(largest.fitted(lambda _: small))))


def of_counts(largest: Largest) -> Iterator[Body]:
    """As many of each as are taken."""
    room = max(1, min(2000, largest.size // 4096 - 60))
    parts = [{"type": "text", "text": "a " * (room // 2)}] * 4096
    yield Body("4,096 parts", CHAT, dumped(chat(parts)))
    calls = [{"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": "{}"}} for n in range(4096)]
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": calls}]
    yield Body("4,096 tool calls", CHAT, dumped(chat(messages=said)))
    properties = {f"k{n}": {"type": "string"} for n in range(min(21_000, largest.size // 30))}
    schema = {"type": "object", "properties": properties}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    yield Body("a tool of 21,000 properties", CHAT, dumped(chat(tools=[tool])))
    yield Body("a forced tool of 21,000 properties", CHAT, dumped(chat(tools=[tool], tool_choice="required")))
    shape = {
        "type": "json_schema",
        "json_schema": {"name": "x", "strict": True, "schema": schema},
    }
    yield Body("a schema of 21,000 properties", CHAT, dumped(chat(response_format=shape)))
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": dumped(properties).decode()}}
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]}]
    yield Body("arguments of 42,000 fields", CHAT, dumped(chat(messages=said)))
    blocks = [{"type": "tool_result", "tool_use_id": f"t{n}", "content": "a"} for n in range(4096)]
    hello = {"messages": [{"role": "user", "content": blocks}]}
    yield Body("messages: 4,096 tool results", "/v1/messages", dumped({"model": MODEL, "max_tokens": 1} | hello))
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello there"}] * 3}
    asked = {"model": MODEL, "max_output_tokens": 1, "input": [item] * min(4096, largest.size // 200)}
    yield Body("responses: 4,096 items of 3 parts", "/v1/responses", dumped(asked))


def of_schemas(largest: Largest) -> Iterator[Body]:
    properties = {f"k{n}": {"type": "string"} for n in range(largest.size // 30)}
    pattern = "(a{2}|b)" * (largest.size // 8)
    references = {f"a{n}": {"$ref": f"#/$defs/a{n + 1}"} for n in range(largest.size // 40)}
    schemas: dict[str, dict[str, Any]] = {
        "properties": {"type": "object", "properties": properties},
        "enum": {"enum": largest.fitted(lambda n: f"value {n}")},
        "$refs": {"$ref": "#/$defs/a0", "$defs": references},
        "pattern": {"type": "string", "pattern": pattern},
        "description": {"type": "object", "description": largest.text("word ")},
        "anyOf": {"anyOf": largest.fitted(lambda n: {"type": "string", "const": f"{n}"})},
        "required": {"type": "object", "required": largest.fitted(lambda n: f"k{n}")},
    }
    for name, schema in schemas.items():
        described = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
        yield Body(f"response_format: {name}", CHAT, dumped(chat(response_format=described)))
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        yield Body(f"tool: {name}", CHAT, dumped(chat(tools=[tool])))
        yield Body(f"forced tool: {name}", CHAT, dumped(chat(tools=[tool], tool_choice="required")))

    def tool_of(number: int) -> dict[str, Any]:
        function = {"name": f"f{number}", "parameters": {"type": "object", "properties": {"a": {"type": "string"}}}}
        return {"type": "function", "function": function}

    yield Body("many tools", CHAT, dumped(chat(tools=largest.fitted(tool_of))))
    yield Body("128 tools", CHAT, dumped(chat(tools=[tool_of(n) for n in range(128)], tool_choice="required")))
    yield Body("guided_choice", CHAT, dumped(chat(guided_choice=largest.fitted(lambda n: f"choice {n}"))))
    yield Body("guided_regex", CHAT, dumped(chat(guided_regex=pattern)))
    rules = "\n".join(f'r{n}: "a" r{n + 1}' for n in range(largest.size // 26))
    yield Body("guided_grammar", CHAT, dumped(chat(guided_grammar=f"start: r0\n{rules}")))


def of_tokens(largest: Largest) -> Iterator[Body]:
    ids = [7] * (largest.size // 2)
    yield Body("completions: token ids", TEXT, dumped({"model": MODEL, "prompt": ids, "max_tokens": 1}))
    yield Body("completions: 128K token ids", TEXT, dumped({"model": MODEL, "prompt": ids[:131_000], "max_tokens": 1}))
    each = ids[: min(len(ids) // 64, 5000)]
    many = {"model": MODEL, "prompt": [each] * 64, "max_tokens": 1}
    yield Body("completions: 64 prompts of token ids", TEXT, dumped(many))
    texts = [largest.text("word ")[: largest.size // 64]] * 64
    yield Body("completions: 64 texts", TEXT, dumped({"model": MODEL, "prompt": texts, "max_tokens": 1}))
    filled = {"model": MODEL, "prompt": largest.text("x = 1\n")[: largest.size // 2], "suffix": "y = 2\n", "timeout": 2}
    yield Body("completions: fill in the middle", TEXT, dumped(filled))
    yield Body("/detokenize", "/detokenize", dumped({"model": MODEL, "tokens": ids[:1_000_000]}))
    yield Body("/detokenize: 300,000", "/detokenize", dumped({"model": MODEL, "tokens": ids[:300_000]}))
    named = {"model": MODEL, "prompt": largest.text("ab c ")[:400_000], "return_token_strs": True}
    yield Body("/tokenize: names", "/tokenize", dumped(named))
    texts = [largest.text("word ")[: largest.size // 2048 - 4]] * 2048
    asked: dict[str, Any] = {"model": "embedder", "timeout": 0.2}
    yield Body("embeddings: 2,048 texts", "/v1/embeddings", dumped(asked | {"input": texts}))
    yield Body("embeddings: one text", "/v1/embeddings", dumped(asked | {"input": largest.text("word ")}))
    yield Body("embeddings: token ids", "/v1/embeddings", dumped(asked | {"input": [[7] * 146] * 2048}))
    yield Body("embeddings: many inputs", "/v1/embeddings", dumped(asked | {"input": ["a"] * (largest.size // 4)}))


def of_other_forms(largest: Largest) -> Iterator[Body]:
    asked = {"model": MODEL, "max_output_tokens": 1, "timeout": 2}
    item = {"type": "message", "role": "user", "content": "Hello there"}
    forms: dict[str, dict[str, Any]] = {
        "items": {"input": largest.fitted(lambda _: item, 4096)},
        "too many items": {"input": largest.fitted(lambda _: item)},
        "instructions": {"input": "Hi", "instructions": largest.text("be brief ")},
        "text": {"input": largest.text("be brief ")},
        "parts": {"input": [item | {"content": largest.fitted(lambda _: {"type": "input_text", "text": "a"})}]},
        "unknown fields": {"input": [item | {f"k{n}": "v" for n in range(largest.size // 16)}]},
        "metadata": {"input": "Hi", "metadata": {f"k{n}": "v" for n in range(largest.size // 16)}},
    }
    for name, form in forms.items():
        yield Body(f"responses: {name}", "/v1/responses", dumped(asked | form))
    message: dict[str, Any] = {"model": MODEL, "max_tokens": 1}
    blocks = largest.fitted(lambda _: {"type": "text", "text": "a"})
    results = largest.fitted(lambda n: {"type": "tool_result", "tool_use_id": f"t{n}", "content": "a"})
    tools = largest.fitted(lambda n: {"name": f"f{n}", "input_schema": {"type": "object"}})
    for name, content in (("text", largest.text("word ")), ("blocks", blocks), ("tool results", results)):
        said = {"messages": [{"role": "user", "content": content}]}
        yield Body(f"messages: {name}", "/v1/messages", dumped(message | said))
        yield Body(f"count_tokens: {name}", "/v1/messages/count_tokens", dumped(message | said))
    hello = {"messages": [{"role": "user", "content": "Hi"}]}
    yield Body("messages: many tools", "/v1/messages", dumped(message | hello | {"tools": tools}))
    yield Body("messages: system", "/v1/messages", dumped(message | hello | {"system": blocks}))


def of_uploads(largest: Largest) -> Iterator[Body]:
    yield Body("a body that nobody reads", "/v1/nothing", b"x" * largest.size)
    yield Body("a body that nobody reads, in chunks of 1 byte", "/v1/nothing", b"x" * (largest.size // 8), chunk=1)
    raw = [dumped(chat("a", padding="x" * size)) for size in (largest.size // 8, largest.size)]
    yield Body("in chunks of 1 byte", CHAT, raw[0], chunk=1)
    yield Body("in chunks of 100 bytes", CHAT, raw[1], chunk=100)
    yield Body("no JSON", CHAT, b"x" * largest.size)
    yield Body("a job list", "/v1/jobs", b"", method="GET")
