"""The refusal of a key that keeps too much names the remedies."""

import pytest

from common.redis.refusals import kept_message


@pytest.mark.parametrize(
    ("most", "said"),
    [
        (3 * 2**20, "take 5.0 MiB, and it may keep 3.0 MiB (max_kept_bytes): delete stored responses"),
        (6 * 2**20, "take 5.0 MiB, and with this one they may take 6.0 MiB (max_kept_bytes): delete stored responses"),
    ],
)
def test_the_refusal_names_the_bytes_that_a_key_keeps_and_may_keep(most: int, said: str) -> None:
    message = kept_message(5 * 2**20, most)
    assert said in message and "DELETE /v1/responses/{id}" in message and "expire" in message
    assert ("ask for less" in message) == (most > 5 * 2**20)
