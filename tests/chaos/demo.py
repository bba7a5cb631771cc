"""The demo model under faults: its greedy answers equal those without faults, token for token."""

import asyncio
import random
from typing import Any

from tests.chaos.campaign import KINDS, Model, Plan
from tests.chaos.client import Api, Client, History
from tests.chaos.harness import Harness, Options

PROMPTS = (
    "What is the capital of France?",
    "Tell me a short story about a fox.",
    "What is 17 plus 25?",
    "Write a list of three colours.",
    "Who are you?",
    "Spell the word house backwards.",
    "Count from 1 to 10.",
    "What day comes after Monday?",
    "Hello!",
    "Tell me a story about the sea and a ship.",
)
MAX_TOKENS = 120
OPTIONS = Options(num_apis=2, num_workers=2, worker_module="worker.main", environment={"OMNI_THREADS": "1"})


class DemoModel(Model):
    """Greedy requests, so that each has one right answer."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[str, int]] = {}

    def body(self, prompt: str, seed: int) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        options = {"include_usage": True, "include_event_ids": True}
        return {
            "model": "fake",
            "messages": messages,
            "seed": seed,
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
            "stream_options": options,
        }

    def learn(self, harness: Harness) -> None:
        async def one(prompt: str) -> None:
            client = Client(Api(harness.port), History(hash(prompt) % 2**40, 1, "stream"), body=self.body(prompt, 0))
            await client.stream(background=True)
            assert client.history.usage is not None, client.history
            self.answers[prompt] = client.history.text, client.history.usage["completion_tokens"]

        async def all_of_them() -> None:
            for prompt in PROMPTS:
                await one(prompt)

        asyncio.run(all_of_them())

    def ask(self, plan: Plan, random: random.Random) -> tuple[History, dict[str, Any] | None]:
        number = random.randrange(len(PROMPTS))
        prompt = PROMPTS[number]
        seed = random.getrandbits(30) * len(PROMPTS) + number
        return History(seed, self.answers[prompt][1], random.choice(KINDS)), self.body(prompt, seed)

    def expect(self, history: History) -> str:
        return self.answers[PROMPTS[history.seed % len(PROMPTS)]][0]
