import pytest
from redis import Redis

from common.records.database import Records
from tests.dispatcher.webhooks.rig import Rig


@pytest.fixture
def rig(records: Records, redis: Redis) -> Rig:
    """On SQLite and on PostgreSQL."""
    return Rig(records, redis)
