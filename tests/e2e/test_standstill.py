"""A large request delays no other: a small size of `python -m bench.hostile --standstill`."""

from collections.abc import Iterator

import pytest

from bench.large_bodies import Largest, bodies, of_texts
from bench.standstill import Measured, Watch, idle, measure, wide_service

SIZE = 1_000_000
LONGEST_MS = 400.0  # on a quiet machine it is a tenth of this
STATUS = {
    "repeated name": "400",
    "wide object": "400",
    "wide list of numbers": "400",
    "nested lists": "400",
    "lists of one number": "400",
    "as many nested lists as are taken": "200",
    "many bad parts": "400",
    "4,096 messages": "400",
    "chat: words": "400",
    "chat: base64": "400",
    "/tokenize: words": "400",
    "/tokenize: base64": "400",
    "tool: properties": "400",
    "many small images": "400",
    "/detokenize: 300,000": "200",
    "embeddings: 2,048 texts": "400",
    "in chunks of 1 byte": "200",
    "a large image": "200",
    "a job list": "200",
}


@pytest.fixture(scope="module")
def measured() -> Iterator[dict[str, Measured]]:
    with wide_service() as harness, Watch(harness.port) as watched:
        found = {"": idle(watched)}
        for body in bodies(SIZE):
            if body.name in STATUS:
                found[body.name] = measure(watched, harness.port, body)
        yield found


def longest_ms(idle: Measured) -> float:
    """The longest wait allowed: five times that without a large request, on this machine."""
    return max(LONGEST_MS, 5 * idle.livez_ms, 5 * idle.stream_ms)


@pytest.mark.parametrize("name", STATUS)
def test_others_are_answered_while_a_large_request_is(measured: dict[str, Measured], name: str) -> None:
    most_ms = longest_ms(measured[""])
    assert measured[name].livez_ms < most_ms, measured[name]
    assert measured[name].stream_ms < most_ms, measured[name]


@pytest.mark.parametrize("name", STATUS)
def test_it_is_answered_itself(measured: dict[str, Measured], name: str) -> None:
    assert measured[name].status == STATUS[name]


def test_without_threads_others_would_wait() -> None:
    [body] = [body for body in of_texts(Largest(8_000_000)) if body.name == "/tokenize: words"]
    with wide_service(api_module="tests.e2e.api_without_threads") as harness, Watch(harness.port) as watched:
        quiet = idle(watched)
        assert measure(watched, harness.port, body).livez_ms > longest_ms(quiet)
