"""omni keys."""

import json
import re

from common.redis.keys import KEY_NAMES
from tests.service import RunningService


def test_a_key_is_added_listed_limited_and_revoked(omni, service: RunningService):
    key = omni("keys", "add", "visitor", "--max-queued", "5").stdout.strip()
    try:
        listed = omni("keys", "list").stdout
        assert "visitor" in listed and key not in listed
        assert json.loads(omni("keys", "list", "--json").stdout)[0]["limits"]["max_queued"] == 5
        assert omni("keys", "limits", "visitor", "--weight", "2.5", "--admin").exit_code == 0
        assert re.search(
            r"visitor\s+\S+\s+-\s+5\s+-\s+-\s+-\s+2\.5\s+0\s+priority,default,flex\s+yes", omni("keys", "list").stdout
        )
        assert "visitor" in omni("keys", "add", "visitor").stderr
    finally:
        assert omni("keys", "revoke", "visitor").exit_code == 0
    assert "no key named" in omni("keys", "revoke", "visitor").stderr


def test_a_name_whose_key_does_not_exist_can_be_taken(omni, service: RunningService):
    """A release before could die between writing the name and the key's record."""
    with service.redis() as redis:
        redis.hset(KEY_NAMES, "halved", "0" * 32)
    try:
        key = omni("keys", "add", "halved").stdout.strip()
        assert key and "halved" in omni("keys", "list").stdout
        assert "already" in omni("keys", "add", "halved").stderr
    finally:
        omni("keys", "revoke", "halved")
