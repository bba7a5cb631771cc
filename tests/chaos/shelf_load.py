"""Mixed work for several models: what eight callers ask, when, and what each of them read.

One HTTP client for every OpenAI-compatible server, so that others can be measured beside ours. It repeats nothing: a
refused or broken request is a failed one.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

NUM_KEYS = 8
KINDS = {"chat": 45, "completion": 15, "background": 14, "flex": 10, "cancelled": 8, "deadline": 8}  # weights
STREAMED = ("chat", "cancelled", "deadline")
TIGHT_S = 2.0  # a deadline that may pass
WORDS = (
    "river stone lamp green seven quiet morning paper window copper garden letter winter bridge silver orange "
    "table music forest candle market harbour island yellow thunder engine planet pocket travel story number"
).split()


@dataclass(frozen=True)
class Ask:
    """One request of the plan."""

    number: int
    key: int
    model: str
    kind: str
    prompt: str
    max_tokens: int
    temperature: float
    at_s: float  # after the start
    timeout_s: float = 0.0  # 0: none
    cancel_after: int = 0  # deltas

    def body(self, *, ours: bool) -> dict[str, Any]:
        """`ours`: with the fields that only our API has."""
        body: dict[str, Any] = {
            "model": self.model, "max_tokens": self.max_tokens, "temperature": self.temperature,
            "seed": self.number, "ignore_eos": True,
        }  # fmt: skip
        if self.kind == "completion":
            body["prompt"] = self.prompt
        else:
            body["messages"] = [{"role": "user", "content": self.prompt}]
        if self.kind in STREAMED:
            body["stream"] = True
            body["stream_options"] = {"include_usage": True} | ({"include_event_ids": True} if ours else {})
        if ours:
            body |= {"background": True} if self.kind in ("background", "flex") else {}
            body |= {"service_tier": "flex"} if self.kind == "flex" else {}
            body |= {"timeout": self.timeout_s} if self.timeout_s else {}
        return body


@dataclass
class Answer:
    """What came back. Times are time.monotonic()."""

    ask: Ask
    begun: float = 0.0
    first: float = 0.0
    ended: float = 0.0
    text: str = ""
    finish_reason: str = ""
    num_tokens: int = 0
    error: str = ""  # a code, or what broke
    job_id: str = ""
    is_cancelled: bool = False
    numbers: list[int] = field(default_factory=list)  # of the frames
    reads: list[float] = field(default_factory=list)  # when text came
    comments: list[str] = field(default_factory=list)

    @property
    def ttft_s(self) -> float:
        return (self.first or self.ended) - self.begun

    @property
    def longest_gap_s(self) -> float:
        return max((after - before for before, after in zip(self.reads, self.reads[1:], strict=False)), default=0.0)


def plan(models: Sequence[str], num_jobs: int, seconds: float, seed: int = 1, *, longest: int = 96) -> list[Ask]:
    """Jobs of NUM_KEYS callers at random times; each caller uses one model more than the others."""
    chance = random.Random(seed)
    times = sorted(chance.uniform(0, seconds) for _ in range(num_jobs))
    asks = []
    for number, at_s in enumerate(times):
        key = chance.randrange(NUM_KEYS)
        model = models[key % len(models)] if chance.random() < 0.5 else chance.choice(models)
        kind = chance.choices([*KINDS], [*KINDS.values()])[0]
        is_long = kind == "flex" or chance.random() < 0.25
        max_tokens = chance.randint(longest // 2, longest) if is_long else chance.randint(4, longest // 4)
        words = " ".join(chance.choice(WORDS) for _ in range(chance.choice((6, 12, 30))))
        timeout_s = 0.0 if kind != "deadline" else TIGHT_S if chance.random() < 0.5 else 600.0
        asks.append(
            Ask(
                number,
                key,
                model,
                kind,
                words,
                max_tokens,
                chance.choice((0.0, 0.8)),
                at_s,
                timeout_s,
                chance.randint(1, 4) if kind == "cancelled" else 0,
            )  # fmt: skip
        )
    return asks


class Callers:
    """Sends a plan and keeps the answers."""

    def __init__(self, url: str, keys: Sequence[str], *, ours: bool = True, names: Mapping[str, str] | None = None):
        self.url = url
        self.keys = keys
        self.ours = ours
        self.names = names or {}  # a model's name in the plan -> its name there
        self.answers: list[Answer] = []

    async def send(self, asks: Sequence[Ask], patience_s: float, *others: Callable[[], Awaitable[None]]) -> None:
        """All of the plan, beside `others`. A request that goes on `patience_s` after the plan's end is `hung`."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None)
        last_s = asks[-1].at_s if asks else 0.0
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            started = time.monotonic()
            beside = [asyncio.ensure_future(other()) for other in others]
            try:
                tasks = [asyncio.create_task(self.one(session, ask, started)) for ask in asks]
                await asyncio.wait(tasks, timeout=last_s + patience_s)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            finally:
                for task in beside:
                    task.cancel()
                ends = await asyncio.gather(*beside, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end

    async def one(self, session: aiohttp.ClientSession, ask: Ask, started: float) -> None:
        answer = Answer(ask)
        self.answers.append(answer)
        await asyncio.sleep(max(0.0, started + ask.at_s - time.monotonic()))
        answer.begun = time.monotonic()
        try:
            await self.exchange(session, ask, answer)
        except asyncio.CancelledError:
            answer.error = "hung"
            raise
        except (aiohttp.ClientError, OSError, ValueError, KeyError, IndexError) as error:
            answer.error = answer.error or f"{type(error).__name__}: {error}"[:200]
        finally:
            answer.ended = time.monotonic()

    async def exchange(self, session: aiohttp.ClientSession, ask: Ask, answer: Answer) -> None:
        path = "/v1/completions" if ask.kind == "completion" else "/v1/chat/completions"
        headers = {"Authorization": f"Bearer {self.keys[ask.key]}"}
        body = ask.body(ours=self.ours)
        body["model"] = self.names.get(ask.model, ask.model)
        async with session.post(self.url + path, json=body, headers=headers) as response:
            answer.job_id = response.headers.get("Omni-Job-Id", "")
            if response.status not in (200, 202):
                answer.error = f"{response.status} {code_of(await response.text())}"
            elif ask.kind in STREAMED:
                await self.read(session, response, answer, headers)
            else:
                whole = await response.json()
                if response.status == 202:
                    answer.job_id = whole["id"]
                    whole = await self.poll(session, f"{self.url}{path}/{whole['id']}", headers)
                take_whole(whole, answer)

    async def poll(self, session: aiohttp.ClientSession, url: str, headers: Mapping[str, str]) -> dict[str, Any]:
        while True:
            async with session.get(url, headers=headers) as response:
                body: dict[str, Any] = await response.json()
                if response.status != 202:
                    return body
            await asyncio.sleep(0.25)

    async def read(
        self,
        session: aiohttp.ClientSession,
        response: aiohttp.ClientResponse,
        answer: Answer,
        headers: Mapping[str, str],
    ) -> None:
        is_done = False
        async for line in response.content:
            if line.startswith(b":"):
                answer.comments.append(line[1:].decode().strip())
            elif line.startswith(b"id: "):
                answer.numbers.append(int(line[4:]))
            elif line.startswith(b"data: [DONE]"):
                is_done = True
            elif line.startswith(b"data: "):
                take_chunk(json.loads(line[6:]), answer)
            if answer.ask.cancel_after and len(answer.reads) >= answer.ask.cancel_after and not answer.is_cancelled:
                answer.is_cancelled = True
                if not self.ours:
                    return  # to leave is the one way to cancel there
                async with session.delete(f"{self.url}/v1/jobs/{answer.job_id}", headers=headers):
                    pass
        if not is_done and not answer.error:
            answer.error = "the stream ended without [DONE]"


def take_chunk(chunk: dict[str, Any], answer: Answer) -> None:
    if "error" in chunk:
        answer.error = str(chunk["error"].get("code") or chunk["error"])
        return
    if chunk.get("usage"):
        answer.num_tokens = chunk["usage"]["completion_tokens"]
    for choice in chunk.get("choices", ()):
        if text := choice["delta"].get("content"):
            now = time.monotonic()
            answer.first = answer.first or now
            answer.reads.append(now)
            answer.text += text
        answer.finish_reason = choice.get("finish_reason") or answer.finish_reason


def take_whole(body: dict[str, Any], answer: Answer) -> None:
    if "error" in body:
        answer.error = str(body["error"].get("code") or body["error"])
        return
    choice = body["choices"][0]
    answer.text = choice["text"] if "text" in choice else choice["message"]["content"] or ""
    answer.finish_reason = choice["finish_reason"] or ""
    answer.num_tokens = body["usage"]["completion_tokens"]


def code_of(text: str) -> str:
    try:
        error = json.loads(text)["error"]
        return f"{error.get('code') or error.get('type')}: {error.get('message')}"[:200]
    except (ValueError, KeyError, TypeError, AttributeError):
        return text[:100]
