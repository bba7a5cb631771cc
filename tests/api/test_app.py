"""The store's refusals as the API's answers."""

import pytest

from tests.api.sdk import application, http_client


@pytest.fixture(scope="module")
def web(postgresql_server, valkey_url, tmp_path_factory):
    """PostgreSQL holds no text with NUL in it; SQLite does."""
    url = postgresql_server.new_database().replace("+psycopg", "")
    return http_client(application(valkey_url, tmp_path_factory.mktemp("app"), OMNI_STORE_URL=url))


@pytest.mark.parametrize(
    "path",
    [
        "/v1/files/%00",
        "/v1/files?after=%00",
        "/v1/batches/%00",
        "/v1/messages/batches?after_id=%00",
        "/v1/webhook_endpoints/%00",
        "/v1/usage?models=%00",
    ],
)
def test_an_id_that_the_store_cannot_hold_is_refused(web, path) -> None:
    assert web.get(path).status_code == 400


def test_a_text_that_the_store_cannot_hold_is_refused(web) -> None:
    body = {"name": "a\0b", "url": "https://1.1.1.1/", "event_types": ["*"]}
    answer = web.post("/v1/webhook_endpoints", json=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
