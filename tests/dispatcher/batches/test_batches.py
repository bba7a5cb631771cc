"""Batches from their file to their results, with a real Valkey, API and worker; its engine is weightless."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress

import psutil
import pytest

from common.redis.key_store import KeyLimits, KeyStore
from common.redis.keys import owner_of
from tests.chaos.fake_worker import expected_text
from tests.chaos.harness import Options, wait_until
from tests.dispatcher.batch_service import OTHER, BatchService, chat_line, names_in, running_batches

MESSAGES = "/v1/messages"
LONG = 100_000 - 100  # tokens: longer than a test


@pytest.fixture(scope="module")
def service() -> Iterator[BatchService]:
    with running_batches(Options(through_proxy=False, max_num_seqs=200)) as running:
        yield running


def ids(results: list[dict]) -> list[str]:
    return [result["custom_id"] for result in results]


def counts(row) -> tuple[int, ...]:
    return (row.num_total, row.num_succeeded, row.num_errored, row.num_expired, row.num_cancelled)


def test_a_batch_answers_every_line_in_the_order_of_its_file(service) -> None:
    batch_id = service.add([chat_line(number, tokens=number % 5 + 1) for number in range(1, 41)], output_ttl=3600)
    row = service.ended(batch_id)
    assert (row.status, counts(row)) == ("completed", (40, 40, 0, 0, 0))
    assert row.error_file_id is None and row.model == "fake"
    assert row.created < row.in_progress < row.finalizing <= row.completed
    results = service.results(row.output_file_id)
    assert ids(results) == [f"line-{number}" for number in range(1, 41)]
    for number, result in enumerate(results, 1):
        assert result["error"] is None and result["id"].startswith("batch_req_")
        assert result["response"]["status_code"] == 200 and result["response"]["request_id"]
        text = result["response"]["body"]["choices"][0]["message"]["content"]
        assert text == expected_text(number, number % 5 + 1)
    assert row.completion_tokens == sum(number % 5 + 1 for number in range(1, 41))
    assert row.prompt_tokens == 40 and service.num_recorded(batch_id) == 0
    wait_until(lambda: not service.harness.redis.keys("omni:job:*"), what="recorded jobs to be deleted")


def test_a_line_that_the_api_refuses_costs_itself_only(service) -> None:
    lines = [
        chat_line(1),
        chat_line(2, temperature=9),
        chat_line(3, model="nobody"),
        chat_line(4, stream=True),
        chat_line(5),
    ]
    row = service.ended(service.add(lines))
    assert (row.status, counts(row)) == ("completed", (5, 2, 3, 0, 0))
    assert ids(service.results(row.output_file_id)) == ["line-1", "line-5"]
    errors = service.results(row.error_file_id)
    assert [(error["custom_id"], error["response"]["status_code"], error["error"]) for error in errors] == [
        ("line-2", 400, None), ("line-3", 404, None), ("line-4", 400, None),
    ]  # fmt: skip
    assert errors[0]["response"]["body"]["error"]["param"] == "temperature"


def test_a_file_with_a_bad_line_fails_and_runs_nothing(service) -> None:
    before = names_in(service.harness.data_dir / "files")
    row = service.ended(service.add([chat_line(1), b"{\n", chat_line(1)]))
    assert (row.status, counts(row), row.output_file_id) == ("failed", (0, 0, 0, 0, 0), None)
    assert [(error["code"], error["line"]) for error in row.errors] == [
        ("invalid_json_line", 2), ("duplicate_custom_id", 3),
    ]  # fmt: skip
    assert len(names_in(service.harness.data_dir / "files") - before) == 1  # the input


def test_a_batch_without_its_file_fails(service) -> None:
    row = service.ended(service.add([chat_line(1)], input_file_id="file-gone"))
    assert (row.status, row.errors[0]["code"]) == ("failed", "file_not_found")


def test_a_cancelled_batch_whose_file_is_gone_ends_too(service) -> None:
    batch_id = service.add([chat_line(1)], input_file_id="file-gone", status="cancelling", in_progress=1.0)
    row = service.ended(batch_id)
    assert (row.status, row.errors[0]["code"]) == ("failed", "file_not_found")


def test_a_cancelled_batch_names_the_lines_that_did_not_run_and_ends_their_jobs(service) -> None:
    lines = [chat_line(number, tokens=2 if number < 4 else LONG) for number in range(1, 101)]
    batch_id = service.add(lines)
    wait_until(lambda: service.num_recorded(batch_id) == 3)
    service.cancel(batch_id)
    row = service.ended(batch_id)
    assert (row.status, counts(row)) == ("cancelled", (100, 3, 0, 0, 97))
    assert ids(service.results(row.output_file_id)) == ["line-1", "line-2", "line-3"]
    errors = service.results(row.error_file_id)
    assert ids(errors) == [f"line-{number}" for number in range(4, 101)]
    assert {(error["response"], error["error"]["code"]) for error in errors} == {(None, "batch_cancelled")}
    wait_until(lambda: service.harness.redis.zcard("omni:waiting:fake") == 0, what="the queue to be empty")
    wait_until(lambda: not service.harness.redis.keys("omni:running:*"), what="no job to run")


def test_an_expired_batch_ends_with_what_it_has(service) -> None:
    lines = [chat_line(number, tokens=2 if number < 3 else LONG) for number in range(1, 31)]
    row = service.ended(service.add(lines, window_s=3.0))
    assert (row.status, counts(row)) == ("expired", (30, 2, 0, 28, 0))
    assert row.expired >= row.expires
    errors = service.results(row.error_file_id)
    assert errors[0]["error"] == {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    }


def test_an_anthropic_batch_has_one_file_in_anthropic_s_words(service) -> None:
    asked = {"max_tokens": 3, "messages": [{"role": "user", "content": "x"}]}
    lines = [
        chat_line(1, url=MESSAGES, seed=None, **asked),
        chat_line(2, url=MESSAGES, seed=None, **asked | {"temperature": 9}),
        *(chat_line(number, url=MESSAGES, seed=None, **asked | {"max_tokens": LONG}) for number in range(3, 30)),
    ]
    batch_id = service.add(lines, dialect="anthropic", endpoint=MESSAGES)
    wait_until(lambda: service.num_recorded(batch_id) == 2)
    service.cancel(batch_id)
    row = service.ended(batch_id)
    assert (counts(row), row.error_file_id) == ((29, 1, 1, 0, 27), None)
    first, second, *others = service.results(row.output_file_id)
    assert (first["custom_id"], first["result"]["type"]) == ("line-1", "succeeded")
    assert first["result"]["message"]["type"] == "message"
    assert second["result"]["error"]["error"]["type"] == "invalid_request_error"
    assert {str(other["result"]) for other in others} == {"{'type': 'canceled'}"}
    assert row.prompt_tokens == 1 and row.completion_tokens == 3


def test_a_key_s_limits_make_its_batch_wait_and_no_line_fails(service) -> None:
    key = KeyStore(service.harness.redis).add("narrow", KeyLimits(max_in_flight=2))
    row = service.ended(service.add([chat_line(number) for number in range(1, 16)], owner=owner_of(key)))
    assert counts(row) == (15, 15, 0, 0, 0)


def test_a_batch_says_which_limit_it_waits_for(service) -> None:
    key = KeyStore(service.harness.redis).add("spent", KeyLimits(tokens_per_day=60))
    batch_id = service.add([chat_line(number, tokens=30) for number in range(1, 16)], owner=owner_of(key))
    wait_until(lambda: "limit tokens_per_day" in (service.row(batch_id).waiting_for or ""), 60, "the reason")
    service.cancel(batch_id)
    service.ended(batch_id)


def test_a_batch_goes_on_as_soon_as_its_key_has_memory_again(service) -> None:
    """A job's memory is kept for an hour, but for a line's, which is free once its answer is recorded."""
    key = KeyStore(service.harness.redis).add("small", KeyLimits(max_kept_bytes=20_000))
    row = service.ended(service.add([chat_line(number) for number in range(1, 13)], owner=owner_of(key)), 30)
    assert (row.status, row.num_succeeded) == ("completed", 12)
    assert "is slowed down: This key's requests and answers take" in service.log()


def test_a_later_batch_of_another_owner_does_not_wait_for_a_large_one(service) -> None:
    large = service.add([chat_line(number, tokens=20) for number in range(1, 1501)])
    wait_until(lambda: service.num_recorded(large) > 50)
    small = service.ended(service.add([chat_line(number) for number in range(1, 11)], owner=OTHER))
    assert small.num_succeeded == 10
    assert service.row(large).status == "in_progress"
    service.cancel(large)
    service.ended(large)


def test_a_batch_shows_its_pace_and_expected_end(service) -> None:
    batch_id = service.add([chat_line(number, tokens=30) for number in range(1, 2001)])
    wait_until(lambda: service.row(batch_id).eta, what="an expected end")
    row = service.row(batch_id)
    assert row.lines_per_s > 0 and row.eta > row.in_progress
    service.cancel(batch_id)
    service.ended(batch_id)


def disturb(service: BatchService, batch_id: str, num_lines: int, victims: Sequence[str]) -> None:
    """Kill these processes one after the other, each at its own share of the lines."""

    def victim(name: str) -> psutil.Process:
        harness = service.harness
        found = {"dispatcher": service.dispatcher, "worker": harness.workers[0].worker}
        return found[name]() if name in found else harness.api_processes(2)[0]

    def is_killed(name: str) -> bool:
        with suppress(IndexError):  # it is being restarted
            victim(name).send_signal(signal.SIGKILL)
            return True
        return False

    for number, name in enumerate(victims, 1):
        share = number / (len(victims) + 1) * num_lines
        wait_until(lambda share=share: service.num_recorded(batch_id) >= share or service.row(batch_id).completed, 60)
        wait_until(lambda name=name: is_killed(name))


def broken_promises(service: BatchService, num_lines: int, *victims: str) -> list[str]:
    """What a batch with kills in it got wrong."""
    batch_id = service.add([chat_line(number, tokens=number % 4 + 2) for number in range(1, num_lines + 1)])
    killer = threading.Thread(target=disturb, args=(service, batch_id, num_lines, victims))
    killer.start()
    try:
        row = service.ended(batch_id, 60)
    finally:
        killer.join()
    results = service.results(row.output_file_id) + service.results(row.error_file_id)
    wrong = []
    if sorted(ids(results)) != sorted(f"line-{number}" for number in range(1, num_lines + 1)):
        wrong.append(f"{len(set(ids(results)))} custom_ids, {len(results)} results")
    if counts(row) != (num_lines, num_lines, 0, 0, 0):
        wrong.append(f"counts {counts(row)}")
    if row.completion_tokens != sum(number % 4 + 2 for number in range(1, num_lines + 1)):
        wrong.append(f"{row.completion_tokens} tokens")
    for result in results:
        number = int(result["custom_id"][5:])
        if result["response"]["body"]["choices"][0]["message"]["content"] != expected_text(number, number % 4 + 2):
            wrong.append(f"text of {number}")
    if (num_jobs := service.num_jobs_ended()) != num_lines:
        wrong.append(f"{num_jobs} jobs")
    made = names_in(service.harness.data_dir / "files")
    if made != {"file-in-0", row.output_file_id}:
        wrong.append(f"files {made}")
    return wrong


def test_killed_processes_lose_no_line_and_run_none_twice() -> None:
    with running_batches() as service:
        assert broken_promises(service, 300, "dispatcher", "api", "worker", "dispatcher") == []


def test_a_redis_that_has_lost_its_data_costs_no_line() -> None:
    with running_batches() as service:
        batch_id = service.add([chat_line(number, tokens=30) for number in range(1, 201)])
        wait_until(lambda: service.num_recorded(batch_id) >= 50)
        service.harness.redis.flushall()
        row = service.ended(batch_id, 60)
        assert (row.status, counts(row)) == ("completed", (200, 200, 0, 0, 0))
        assert ids(service.results(row.output_file_id)) == [f"line-{number}" for number in range(1, 201)]


@pytest.mark.parametrize("fault", ["counts_apart", "no_idempotency"])
def test_the_kills_are_noticed_where_a_mechanism_is_broken(fault: str) -> None:
    with running_batches(module=f"tests.dispatcher.broken.{fault}") as service:
        assert broken_promises(service, 200, "dispatcher", "dispatcher") != []
