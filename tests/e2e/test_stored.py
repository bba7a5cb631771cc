"""What is stored outlives the dispatcher's deaths and Redis: OpenAI's client on the real service."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import openai
import psutil
import pytest

from common.outbox.stream import Outbox
from tests.chaos.harness import wait_until
from tests.service import RunningService

MODEL = "omni-demo"


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[RunningService]:
    with RunningService(tmp_path) as running:
        running.start("redis", "api", "worker")
        running.spawn("dispatcher")
        running.wait_healthy()
        yield running


def kill_dispatcher(service: RunningService) -> None:
    """kill -9, whatever it is doing; its supervisor starts it again."""
    for child in psutil.Process(service.processes["dispatcher"].pid).children(recursive=True):
        try:
            os.kill(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def test_answers_and_conversations_outlive_the_dispatcher_and_redis(stored: RunningService) -> None:
    client, redis = stored.openai(), stored.redis()
    conversation = client.conversations.create(metadata={"for": "Ada"})
    responses = []
    for number in range(6):
        sent = {"model": MODEL, "input": f"Tell me story {number}.", "max_output_tokens": 12, "temperature": 0}
        where = {"conversation": conversation.id} if number % 2 else {}
        responses.append(client.responses.create(**sent, **where))
        if number in (1, 3):
            kill_dispatcher(stored)
    events = list(client.responses.retrieve(responses[0].id, stream=True))
    chat = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hello!"}], max_tokens=9, store=True, metadata={"n": "1"}
    )
    kill_dispatcher(stored)
    outbox = Outbox(redis)
    wait_until(lambda: not outbox.last(), 30, "the dispatcher to archive everything")
    items = list(client.conversations.items.list(conversation.id, order="asc"))
    assert [item.role for item in items] == ["user", "assistant"] * 3

    redis.flushall()
    stored.wait_healthy()
    assert [client.responses.retrieve(response.id).output for response in responses] == [
        response.output for response in responses
    ]
    assert list(client.responses.retrieve(responses[0].id, stream=True)) == events
    assert list(client.conversations.items.list(conversation.id, order="asc")) == items
    [listed] = client.chat.completions.list(metadata={"n": "1"})
    assert (listed.id, listed.choices[0].message.content) == (chat.id, chat.choices[0].message.content)
    [message] = client.chat.completions.messages.list(chat.id)
    assert message.content == "Hello!"

    wait_until(lambda: client.models.list().data, 30, "the worker to say again what it serves")
    follow = client.responses.create(model=MODEL, input="And then?", previous_response_id=responses[0].id, store=False)
    assert follow.usage is not None and responses[0].usage is not None
    assert follow.usage.input_tokens > responses[0].usage.total_tokens
    client.responses.delete(responses[0].id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(responses[0].id)
