"""CORS: which origins' pages may read our answers."""

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from api.gate.cors import origin_pattern
from common.settings import read_settings


def client(**changes: str) -> FlaskClient:
    return create_app(read_settings({"REDIS_URL": "unix:///nowhere.sock", **changes})).test_client()


def preflight(origin: str) -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }


@pytest.mark.parametrize("origin", ["http://localhost", "http://localhost:5173", "http://127.0.0.1:3000"])
def test_a_preflight_from_here_is_granted_without_a_key(origin: str) -> None:
    answer = client().options("/v1/chat/completions", headers=preflight(origin))
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == origin
    assert answer.headers["Access-Control-Allow-Headers"] == "authorization"
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert "Origin" in answer.headers["Vary"]


def test_a_page_can_read_that_a_route_does_not_exist() -> None:
    granted = client().options("/v1/audio/speech", headers=preflight("http://localhost"))
    assert granted.status_code == 204
    refused = client().post("/v1/audio/speech", headers={"Origin": "http://localhost"})
    assert refused.status_code == 404 and refused.headers["Access-Control-Allow-Origin"] == "http://localhost"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost.evil.example", "https://localhost"]
)
def test_other_origins_are_granted_nothing(origin: str) -> None:
    answer = client().options("/v1/chat/completions", headers=preflight(origin))
    assert not [name for name in answer.headers.keys() if name.startswith("Access-Control-")]


def test_an_answer_also_an_error_can_be_read_with_the_headers_that_clients_need() -> None:
    answer = client().get("/v1/models", headers={"Origin": "http://localhost:5173"})
    assert answer.status_code == 401
    assert answer.headers["Access-Control-Allow-Origin"] == "http://localhost:5173"
    assert "Omni-Job-Id" in answer.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer.headers


def test_the_operator_names_the_origins() -> None:
    named = client(OMNI_CORS_ORIGINS="https://chat.example, http://10.0.0.5:8080/")
    for origin, granted in [
        ("https://chat.example", True),
        ("https://chat.example:8443", True),
        ("http://10.0.0.5:8080", True),
        ("http://10.0.0.5:9090", False),
        ("http://localhost:3000", False),
    ]:
        answer = named.options("/v1/models", headers=preflight(origin))
        assert ("Access-Control-Allow-Origin" in answer.headers) is granted, origin


def test_no_origin_is_granted_when_none_is_named() -> None:
    answer = client(OMNI_CORS_ORIGINS="").get("/livez", headers=preflight("http://localhost"))
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    ("origin", "granted"),
    [
        ("https://any.example", True),
        ("http://[::1]:3000", True),
        ("null", False),
        ("http://localhost@evil.example", False),
        ("http://localhost:99999999", False),
        ("http://[::1", False),
        ("file://x", False),
        ("http://localhost/x", False),
        ("", False),
    ],
)
def test_a_star_grants_every_origin_of_the_web(origin: str, granted: bool) -> None:
    assert bool(origin_pattern("*").match(origin)) is granted
    answer = client(OMNI_CORS_ORIGINS="*").get("/livez", headers={"Origin": origin})
    assert ("Access-Control-Allow-Origin" in answer.headers) is granted


@pytest.mark.parametrize("origin", ["http://localhost@evil.example", "http://localhost:0", "http://localhost/x", ""])
def test_only_the_port_of_a_named_origin_is_free(origin: str) -> None:
    assert not origin_pattern("http://localhost").match(origin)


def test_answers_vary_by_origin_even_without_one() -> None:
    """A cache must not give a page the answer that was made for a caller without an Origin header."""
    assert "Origin" in client().get("/livez").headers["Vary"]


def test_a_page_may_reach_this_private_network() -> None:
    headers = preflight("http://localhost") | {"Access-Control-Request-Private-Network": "true"}
    answer = client().options("/v1/models", headers=headers)
    assert answer.headers["Access-Control-Allow-Private-Network"] == "true"
    assert answer.headers["Access-Control-Max-Age"] == "600"


def test_the_host_is_checked_before_a_preflight_is_answered() -> None:
    answer = client().options("/v1/models", headers=preflight("http://localhost") | {"Host": "evil.example"})
    assert answer.status_code == 421
