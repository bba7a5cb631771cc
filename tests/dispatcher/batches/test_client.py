"""What an answer to a line means: the API's, and that of a proxy in front of it."""

import socket

import orjson
import pytest
import urllib3

from common.records.batch_work import OpenBatch
from common.redis import keys
from dispatcher.batches import client
from dispatcher.batches.client import AWAY_S, ApiAway, ApiReply, InternalSecret, LineClient, reply_of
from dispatcher.batches.lines import Line


def reply(status: int, body: bytes, kind: str = "application/json") -> ApiReply:
    return reply_of(urllib3.HTTPResponse(body=body, status=status, headers={"Content-Type": kind}))


def test_the_api_s_last_word_is_its_body_on_one_line() -> None:
    found = reply(504, b'{"error":\n {}}\n')
    assert (found.status_code, found.body, found.is_final) == (504, b'{"error":  {}}', True)


@pytest.mark.parametrize(("status", "pause_s"), [(200, AWAY_S), (302, AWAY_S), (500, AWAY_S), (504, 0)])
def test_a_proxy_s_page_is_no_answer_to_a_line(status: int, pause_s: float) -> None:
    with pytest.raises(ApiAway) as away:
        reply(status, b"<html>", "text/html")
    assert away.value.pause_s == pause_s


def test_a_line_whose_answer_takes_long_makes_no_batch_wait(redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "READ_S", 0.05)
    redis.set(keys.INTERNAL, "secret")
    batch = OpenBatch("batch_1", "o", "openai", "/v1/x", "file-1", "in_progress", 1e12, None, 1, 0.0)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ApiAway) as away:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        LineClient(url, InternalSecret(redis), 1).post(batch, Line(1, "a", b"{}"))
    assert away.value.pause_s == 0


def test_a_proxy_that_refuses_a_line_costs_that_line_only() -> None:
    found = reply(413, b"<html>", "text/html")
    assert found.is_final and "HTTP 413" in orjson.loads(found.body)["error"]["message"]
