"""The endpoints of webhooks, through the real client where it has them."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from openai import OpenAI

from api.app import create_app
from api.webhooks.endpoints import MAX_ENDPOINTS
from common.records.events import record_event
from common.records.webhooks import change_endpoint
from common.redis.keys import owner_of
from common.settings import read_settings
from tests.receiver import CLOSE, Receiver

ALL = {"Authorization": "Bearer sk-admin"}
ME = {"Authorization": "Bearer sk-me"}
YOU = {"Authorization": "Bearer sk-you"}
PATH = "/v1/webhook_endpoints"


@pytest.fixture
def client(tmp_path: Path, valkey_url: str) -> FlaskClient:
    values = {"OMNI_API_KEYS": "sk-me,sk-you", "OMNI_ADMIN_KEYS": "sk-admin", "OMNI_WEBHOOK_HOSTS": "127.0.0.0/8"}
    return create_app(read_settings({"REDIS_URL": valkey_url, "OMNI_DATA_DIR": str(tmp_path), **values})).test_client()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def made(client: FlaskClient, receiver: Receiver, headers: dict[str, str] = ME, **changes: Any) -> dict[str, Any]:
    body = {"name": "mine", "url": receiver.url(), "event_types": ["batch.completed"], **changes}
    answer = client.post(PATH, json=body, headers=headers)
    assert answer.status_code == 200, answer.get_json()
    found: dict[str, Any] = answer.get_json()
    return found


def test_the_secret_is_shown_at_creation_and_rotation_only(client: FlaskClient, receiver: Receiver) -> None:
    endpoint = made(client, receiver)
    secret = endpoint.pop("signing_secret")
    assert secret.startswith("whsec_") and endpoint["signing_secret_hint"] == f"whsec_...{secret[-4:]}"
    assert client.get(f"{PATH}/{endpoint['id']}", headers=ME).get_json() == endpoint
    assert client.get(PATH, headers=ME).get_json()["data"] == [endpoint]
    rotated = client.post(f"{PATH}/{endpoint['id']}/rotate_secret", headers=ME).get_json()
    assert rotated["signing_secret"] not in ("", secret)


def test_a_body_sent_in_chunks_is_read(client: FlaskClient, receiver: Receiver) -> None:
    path = f"{PATH}/{made(client, receiver)['id']}/rotate_secret"
    answer = client.post(
        path,
        input_stream=BytesIO(b'{"keep_old_secret_active_for_24_hours": "perhaps"}'),
        content_type="application/json",
        headers=ME | {"Transfer-Encoding": "chunked"},
        environ_overrides={"wsgi.input_terminated": True},
    )
    assert answer.get_json()["error"]["param"] == "keep_old_secret_active_for_24_hours"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"url": "http://example.com/"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": "https://[::ffff:169.254.169.254]/"}, "url"),
        ({"url": "ftp://127.0.0.1/"}, "url"),
        ({"url": "https://[x"}, "url"),
        ({"url": "http://user:pass@127.0.0.1/"}, "url"),
        ({"url": 1}, "url"),
        ({"event_types": []}, "event_types"),
        ({"event_types": ["batch.done"]}, "event_types[0]"),
        ({"event_types": "batch.completed"}, "event_types"),
        ({"name": ""}, "name"),
        ({"scope": "every"}, "scope"),
    ],
)
def test_a_wrong_field_is_refused_by_name(
    client: FlaskClient, receiver: Receiver, changes: dict[str, Any], param: str
) -> None:
    body = {"name": "mine", "url": receiver.url(), "event_types": "*", **changes}
    for answer in (client.post(PATH, json=body, headers=ME), self_changed(client, receiver, changes)):
        assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, param)


def self_changed(client: FlaskClient, receiver: Receiver, changes: dict[str, Any]) -> Any:
    """The answer to the same change of an endpoint that there is."""
    return client.post(f"{PATH}/{made(client, receiver)['id']}", json=changes, headers=ME)


def test_an_endpoint_may_be_made_disabled(client: FlaskClient, receiver: Receiver) -> None:
    endpoint = made(client, receiver, disabled=True)
    assert (endpoint["disabled"], endpoint["disabled_reason"]) == (True, "disabled by request")
    enabled = client.post(f"{PATH}/{endpoint['id']}", json={"disabled": False}, headers=ME).get_json()
    assert (enabled["disabled"], enabled["disabled_reason"]) == (False, None)


def test_the_scope_stays_as_it_was_made(client: FlaskClient, receiver: Receiver) -> None:
    path = f"{PATH}/{made(client, receiver)['id']}"
    refused = client.post(path, json={"scope": "all"}, headers=ALL)
    assert (refused.status_code, refused.get_json()["error"]["param"]) == (400, "scope")
    assert client.post(path, json={"scope": "own", "name": "new"}, headers=ME).get_json()["name"] == "new"


def test_events_of_all_keys_are_for_admins(client: FlaskClient, receiver: Receiver) -> None:
    body = {"name": "all", "url": receiver.url(), "event_types": ["*"], "scope": "all"}
    assert client.post(PATH, json=body, headers=ME).status_code == 403
    assert client.post(PATH, json=body, headers=ALL).get_json()["scope"] == "all"


def test_a_key_sees_its_own_endpoints_and_an_admin_all(client: FlaskClient, receiver: Receiver) -> None:
    endpoint = made(client, receiver)
    path = f"{PATH}/{endpoint['id']}"
    for method, end, body in (
        ("GET", "", None),
        ("POST", "", {"name": "x"}),
        ("DELETE", "", None),
        ("POST", "/test", {}),
        ("POST", "/rotate_secret", {}),
        ("GET", "/deliveries", None),
        ("POST", "/deliveries/whd_1/redeliver", {}),
    ):
        assert client.open(path + end, method=method, json=body, headers=YOU).status_code == 404
        assert client.open(path + end, method=method, json=body).status_code == 401
    assert client.get(PATH, headers=YOU).get_json()["data"] == []
    assert client.get(path, headers=ALL).status_code == 200


def test_a_key_has_so_many_endpoints_and_lists_them_in_pages(client: FlaskClient, receiver: Receiver) -> None:
    ids = [made(client, receiver)["id"] for _ in range(MAX_ENDPOINTS)]
    body = {"name": "mine", "url": receiver.url(), "event_types": ["*"]}
    assert client.post(PATH, json=body, headers=ME).status_code == 409
    assert client.post(PATH, json=body, headers=YOU).status_code == 200
    found, after = [], ""
    while True:
        page = client.get(f"{PATH}?limit=7&after={after}", headers=ME).get_json()
        found += [endpoint["id"] for endpoint in page["data"]]
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert found == ids[::-1]


def test_a_test_sends_a_signed_sample_and_reports_the_status(client: FlaskClient, receiver: Receiver) -> None:
    endpoint = made(client, receiver)
    for status in (200, 500):
        receiver.answers["/hook"] = status
        answer = client.post(f"{PATH}/{endpoint['id']}/test", json={"event_type": "batch.completed"}, headers=ME)
        assert answer.get_json() == {
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": endpoint["id"],
            "event_type": "batch.completed",
            "status_code": status,
            "success": True,
        }
    got = receiver.next()
    event: Any = OpenAI(api_key="x").webhooks.unwrap(got.body, got.headers, secret=endpoint["signing_secret"])
    assert event.type == "batch.completed" and got.event_id.startswith("evt_test_")
    receiver.answers["/hook"] = CLOSE
    answer = client.post(f"{PATH}/{endpoint['id']}/test", headers=ME)
    assert answer.status_code == 400 and "without an answer" in answer.get_json()["error"]["message"]


def test_a_test_is_of_one_type(client: FlaskClient, receiver: Receiver) -> None:
    answer = client.post(f"{PATH}/{made(client, receiver)['id']}/test", json={"event_type": "*"}, headers=ME)
    assert (answer.status_code, answer.get_json()["error"]["param"]) == (400, "event_type")


def test_a_test_that_succeeds_ends_the_failure_of_its_endpoint(client: FlaskClient, receiver: Receiver) -> None:
    path = f"{PATH}/{made(client, receiver)['id']}"
    with client.application.extensions["omni"].records.begin() as connection:
        change_endpoint(
            connection, path.rpartition("/")[2], {"failing_since": 1.0, "failures": 9, "blocked_until": 9e9}
        )
    receiver.answers["/hook"] = 503
    client.post(f"{path}/test", headers=ME)
    assert client.get(path, headers=ME).get_json()["failing_since"] == 1
    receiver.answers["/hook"] = 204
    client.post(f"{path}/test", headers=ME)
    assert client.get(path, headers=ME).get_json()["failing_since"] is None


def test_deliveries_are_listed_and_delivered_again(client: FlaskClient, receiver: Receiver) -> None:
    endpoint = made(client, receiver)
    records = client.application.extensions["omni"].records
    with records.begin() as connection:
        for number in range(3):
            data = {"id": f"batch_{number}"}
            record_event(connection, owner_of("sk-me"), "batch.completed", data, key=str(number))
    path = f"{PATH}/{endpoint['id']}"
    page = client.get(f"{path}/deliveries?limit=2", headers=ME).get_json()
    assert page["has_more"] and [entry["status"] for entry in page["data"]] == ["pending"] * 2
    rest = client.get(f"{path}/deliveries?after={page['last_id']}", headers=ME).get_json()
    assert len(rest["data"]) == 1
    [delivery] = rest["data"]
    assert delivery["event_type"] == "batch.completed" and delivery["error"] is None
    again = f"{path}/deliveries/{delivery['id']}/redeliver"
    assert client.post(again, headers=ME).get_json()["status"] == "pending"
    client.post(path, json={"disabled": True}, headers=ME)
    assert client.post(again, headers=ME).status_code == 409


def test_an_endpoint_that_is_enabled_begins_anew(client: FlaskClient, receiver: Receiver) -> None:
    endpoint = made(client, receiver)
    path = f"{PATH}/{endpoint['id']}"
    with client.application.extensions["omni"].records.begin() as connection:
        values = {
            "failing_since": 1.0,
            "failures": 9,
            "blocked_until": 9e9,
            "disabled": 2.0,
            "disabled_why": "HTTP 410",
        }
        change_endpoint(connection, endpoint["id"], values)
    found = client.get(path, headers=ME).get_json()
    assert (found["disabled"], found["disabled_reason"], found["failing_since"]) == (True, "HTTP 410", 1)
    found = client.post(path, json={"disabled": False, "event_types": "*"}, headers=ME).get_json()
    assert (found["disabled"], found["disabled_reason"], found["failing_since"]) == (False, None, None)
    assert found["event_types"] == ["*"] and found["name"] == "mine"


def test_a_deleted_endpoint_is_gone(client: FlaskClient, receiver: Receiver) -> None:
    endpoint_id = made(client, receiver)["id"]
    deleted = {"id": endpoint_id, "object": "webhook_endpoint.deleted", "deleted": True}
    assert client.delete(f"{PATH}/{endpoint_id}", headers=ME).get_json() == deleted
    assert client.get(f"{PATH}/{endpoint_id}", headers=ME).status_code == 404
