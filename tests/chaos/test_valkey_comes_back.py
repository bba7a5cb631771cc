"""Valkey is killed and takes a while to read its file; streams continue as soon as it answers."""

import asyncio
import time

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.chaos.client import Api, Client, History
from tests.chaos.harness import Harness, Options, running, wait_until

OPTIONS = Options(step_s=0.02, through_proxy=False)
NUM_FILLING = 8_000
SLOWLY = ("--key-load-delay", "100")  # microseconds for each of them: reading takes a second
WITHIN_S = 1.0


async def kill_and_watch(harness: Harness) -> tuple[float, float, list[float]]:
    """The times at which Valkey was killed, it answered again, and deltas arrived."""
    history = History(7, 500, "stream")
    reading = asyncio.create_task(Client(Api(harness.port), history).stream(background=True))
    while len(history.frames) < 5:
        await asyncio.sleep(0.01)
    harness.kill_valkey()
    killed = time.monotonic()
    harness.begin_valkey(*SLOWLY)
    redis = Redis.from_url(harness.settings.redis.url, retry=Retry(NoBackoff(), 0))
    await asyncio.to_thread(wait_until, redis.ping)
    answered, num_seen = time.monotonic(), len(history.frames)
    while len(history.frames) == num_seen and time.monotonic() < answered + 10:
        await asyncio.sleep(0.01)
    reading.cancel()
    return killed, answered, [frame.at for frame in history.frames]


def test_streams_continue_as_soon_as_valkey_answers() -> None:
    with running(OPTIONS) as harness:
        pipeline = harness.redis.pipeline(transaction=False)
        for number in range(NUM_FILLING):
            pipeline.set(f"filling:{number}", "")
        pipeline.execute()
        killed, answered, came = asyncio.run(kill_and_watch(harness))
    assert answered - killed > 0.8, "it was to take long"
    assert answered < came[-1] < answered + WITHIN_S
