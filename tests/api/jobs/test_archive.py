"""The dispatcher dies between Redis and the store: an answer is kept once, and nothing is lost before it is."""

import pytest

from common.outbox.stream import Outbox
from common.redis import keys
from dispatcher.outbox import OutboxConsumer


class Killed(BaseException):
    """Not an Exception: nothing of the consumer may go on after it."""


def dying(kept, *, before_commit):
    """The dispatcher's consumer, which dies before its transaction commits, or right after."""

    def die(*_):
        raise Killed

    appliers = (kept.archive.apply, die) if before_commit else (kept.archive.apply,)
    return OutboxConsumer(Outbox(kept.redis), kept.records, lambda _: None, appliers, die)


@pytest.mark.parametrize("before_commit", [True, False])
def test_a_death_costs_nothing_and_doubles_nothing(kept, before_commit):
    client = kept.openai()
    response = client.responses.create(model="tiny", input="2+2?", background=True)
    kept.say()
    with pytest.raises(Killed):
        dying(kept, before_commit=before_commit).apply_page()
    assert kept.redis.ttl(keys.job_key(response.id)) > 86000  # nobody knows yet whether it was archived
    kept.keep()
    kept.redis.flushall()
    assert client.responses.retrieve(response.id).output_text == "Four."
