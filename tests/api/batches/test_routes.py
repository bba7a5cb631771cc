"""/v1/batches, as the `openai` package sends and reads it."""

import threading
import time

import openai
import pytest
from sqlalchemy import update

from api.batches import stored
from api.batches.objects import NO_DISPATCHER
from api.files import receive
from api.schema.batch.answers import BatchAnswer
from common.records.schema import batches
from common.redis.keys import DISPATCH, DISPATCHER, owner_of
from tests.api.sdk import application, http_client, openai_client

LINE = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n'
CHAT = "/v1/chat/completions"


@pytest.fixture
def app(redis, valkey_url, tmp_path):  # without what a test before left, such as the lease of a dispatcher
    return application(valkey_url, tmp_path, OMNI_ADMIN_KEYS="sk-admin")


@pytest.fixture
def client(app):
    return openai_client(app)


@pytest.fixture
def web(app):
    return http_client(app)


@pytest.fixture
def input_id(client):
    return client.files.create(file=("in.jsonl", LINE), purpose="batch").id


@pytest.fixture
def make(client, input_id):
    def create(**fields):
        body = {"input_file_id": input_id, "endpoint": CHAT, "completion_window": "24h"} | fields
        return client.batches.create(**body)

    return create


def change(app, batch_id, **values):
    with app.extensions["omni"].records.begin() as connection:
        connection.execute(update(batches).where(batches.c.id == batch_id).values(**values))


@pytest.mark.parametrize("endpoint", [CHAT, "/v1/completions", "/v1/embeddings", "/v1/responses"])
def test_a_new_batch_is_validating_with_all_fields_that_the_sdk_knows(make, input_id, endpoint):
    made = make(endpoint=endpoint, metadata={"job": "nightly"})
    BatchAnswer.model_validate(made.model_dump(), extra="forbid")
    assert made.model_dump(exclude={"id", "created_at", "expires_at"}) == {
        "object": "batch",
        "endpoint": endpoint,
        "model": None,
        "errors": None,
        "input_file_id": input_id,
        "completion_window": "24h",
        "status": "validating",
        "output_file_id": None,
        "error_file_id": None,
        "in_progress_at": None,
        "finalizing_at": None,
        "completed_at": None,
        "failed_at": None,
        "expired_at": None,
        "cancelling_at": None,
        "cancelled_at": None,
        "waiting_for": NO_DISPATCHER,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
        "usage": {
            "input_tokens": 0,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 0,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 0,
        },
        "metadata": {"job": "nightly"},
    }
    assert made.id.startswith("batch_") and made.expires_at - made.created_at == 24 * 3600


@pytest.mark.parametrize(
    ("window", "seconds"), [("1m", 60), ("30m", 1800), ("2h", 7200), ("8h", 28800), ("24h", 86400)]
)
def test_a_window_may_be_shorter_than_a_day(make, window, seconds):
    made = make(completion_window=window)
    assert made.completion_window == window and made.expires_at - made.created_at == seconds


@pytest.mark.parametrize("window", ["", "h", "0h", "25h", "1441m", "1d", "24", "-1h", "1.5h", "² h", "1 h", "soonest"])
def test_any_other_window_is_refused_by_name(make, window):
    with pytest.raises(openai.BadRequestError, match="'24h' or shorter") as refused:
        make(completion_window=window)
    assert refused.value.param == "completion_window"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"input_file_id": ""}, "input_file_id"),
        ({"input_file_id": "file-no"}, "input_file_id"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, "output_expires_after.seconds"),
        ({"output_expires_after": {"anchor": "now", "seconds": 3600}}, "output_expires_after.anchor"),
    ],
    ids=range(6),
)
def test_a_wrong_field_is_refused_by_name(make, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        make(**fields)
    assert refused.value.param == param


def test_the_input_must_be_a_file_of_this_key_and_purpose(app, client, make):
    other = openai_client(app, "sk-other").files.create(file=("a", LINE), purpose="batch").id
    data = client.files.create(file=("a", LINE), purpose="user_data").id
    with pytest.raises(openai.BadRequestError, match="No such File object"):
        make(input_file_id=other)
    with pytest.raises(openai.BadRequestError, match="has the purpose 'user_data'"):
        make(input_file_id=data)


def test_the_row_and_the_call_of_the_dispatcher(app, redis, make, input_id):
    channel = redis.pubsub(ignore_subscribe_messages=True)
    channel.subscribe(DISPATCH)
    channel.get_message(timeout=1)
    made = make(output_expires_after={"anchor": "created_at", "seconds": 7200})
    assert channel.get_message(timeout=5) is not None
    with app.extensions["omni"].records.read() as connection:
        row = connection.execute(batches.select()).mappings().one()
    assert (row["id"], row["owner"], row["dialect"], row["output_ttl"]) == (
        made.id,
        owner_of("sk-local"),
        "openai",
        7200,
    )


def test_a_key_has_a_hundred_open_batches_at_most(app, client, make, monkeypatch):
    assert stored.MAX_OPEN == 100
    monkeypatch.setattr(stored, "MAX_OPEN", 2)
    first, _ = make(), make()
    with pytest.raises(openai.RateLimitError, match="2 batches that have not ended") as refused:
        make()
    assert refused.value.response.headers["Retry-After"] == "60"
    change(app, first.id, status="completed")
    make()


def test_a_key_whose_files_have_no_room_left_makes_no_batch(make, monkeypatch):
    monkeypatch.setattr(receive, "MAX_OWNER_BYTES", len(LINE))
    with pytest.raises(openai.InternalServerError, match="that a key may keep"):
        make()


def test_a_batch_is_made_also_while_redis_is_away(app, make, monkeypatch):
    monkeypatch.setattr("common.redis.keys.DISPATCH", None)  # a command that redis-py cannot send
    assert make().status == "validating"


def test_an_idempotency_key_makes_one_batch_however_often_and_from_wherever_it_comes(app, make, client, input_id):
    found, key = [], {"Idempotency-Key": "k" * 256}

    def create():
        found.append(make(extra_headers=key).id)

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(set(found)) == 1
    assert len(list(client.batches.list())) == 1
    with pytest.raises(openai.UnprocessableEntityError, match="another body"):
        make(completion_window="1h", extra_headers=key)
    with pytest.raises(openai.BadRequestError, match="256 characters"):
        make(extra_headers={"Idempotency-Key": "k" * 257})
    other = openai_client(app, "sk-other")
    theirs = other.files.create(file=("in.jsonl", LINE), purpose="batch").id
    body = {"input_file_id": theirs, "endpoint": CHAT, "completion_window": "24h"}
    assert other.batches.create(**body, extra_headers=key).id not in found


def test_progress_and_results_are_shown_as_the_row_has_them(app, client, make):
    made = make()
    change(
        app, made.id, status="completed", model="tiny", in_progress=made.created_at + 1.9, finalizing=2000.0,
        completed=3000.7, num_total=10, num_succeeded=7, num_errored=3, prompt_tokens=100, cached_tokens=40,
        completion_tokens=50, reasoning_tokens=5, output_file_id="file-o", error_file_id="file-e",
    )  # fmt: skip
    found = client.batches.retrieve(made.id)
    assert (found.status, found.model, found.in_progress_at) == ("completed", "tiny", made.created_at + 1)
    assert (found.completed_at, found.output_file_id, found.error_file_id) == (3000, "file-o", "file-e")
    assert found.request_counts.model_dump() == {"total": 10, "completed": 7, "failed": 3}
    assert found.usage.model_dump() == {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 40},
        "output_tokens": 50,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 150,
    }


def test_a_failed_batch_says_which_lines_are_wrong(app, client, make):
    made = make()
    errors = [{"code": "invalid_json_line", "line": 3, "message": "no JSON", "param": None}]
    change(app, made.id, status="failed", failed=5.0, errors=errors)
    found = client.batches.retrieve(made.id)
    assert found.failed_at == 5 and found.errors.object == "list"
    assert [error.model_dump() for error in found.errors.data] == errors


def test_the_expected_end_is_shown_while_it_is_ahead(app, client, make):
    made, ends = make(), time.time() + 100
    change(app, made.id, eta=ends)
    assert client.batches.retrieve(made.id).eta == int(ends)
    change(app, made.id, eta=time.time() - 1)
    assert not hasattr(client.batches.retrieve(made.id), "eta")
    change(app, made.id, status="completed", eta=ends)
    assert not hasattr(client.batches.retrieve(made.id), "eta")


def test_batches_are_listed_newest_first_in_pages(app, client, make, web):
    made = [make().id for _ in range(5)]
    assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
    body = web.get("/v1/batches", params={"limit": 2, "after": made[4]}).json()
    assert (body["object"], body["first_id"], body["last_id"], body["has_more"]) == ("list", made[3], made[2], True)
    assert list(openai_client(app, "sk-other").batches.list()) == []
    for query in ("limit=101", "limit=0", "after=batch_no"):
        answer = web.get(f"/v1/batches?{query}")
        assert answer.status_code == 400 and answer.json()["error"]["param"] == query.partition("=")[0]


@pytest.mark.parametrize("status", ["validating", "in_progress"])
def test_an_open_batch_is_cancelled_once_and_again_without_a_change(app, client, make, status, redis):
    made = make()
    change(app, made.id, status=status)
    channel = redis.pubsub(ignore_subscribe_messages=True)
    channel.subscribe(DISPATCH)
    channel.get_message(timeout=1)
    found = client.batches.cancel(made.id)
    assert found.status == "cancelling" and abs(found.cancelling_at - time.time()) < 60
    assert channel.get_message(timeout=5) is not None
    assert client.batches.cancel(made.id) == found
    change(app, made.id, status="cancelled", cancelled=9.0)
    assert client.batches.cancel(made.id).cancelled_at == 9


@pytest.mark.parametrize("status", ["failed", "finalizing", "completed", "expired"])
def test_a_batch_that_has_ended_is_not_cancelled(app, client, make, status):
    made = make()
    change(app, made.id, status=status)
    with pytest.raises(openai.ConflictError, match=f"Cannot cancel a batch with status '{status}'"):
        client.batches.cancel(made.id)
    assert client.batches.retrieve(made.id).status == status


def test_another_key_sees_nothing_of_a_batch(app, make):
    made, other = make(), openai_client(app, "sk-other")
    for call in (other.batches.retrieve, other.batches.cancel):
        with pytest.raises(openai.NotFoundError, match="No batch found with id"):
            call(made.id)


def test_an_admin_sees_and_cancels_each_batch_by_its_id_also_one_of_a_revoked_key(app, make):
    made, admin = make(), openai_client(app, "sk-admin")
    assert admin.batches.retrieve(made.id).id == made.id and not admin.batches.list().data
    assert admin.batches.cancel(made.id).status == "cancelling"


def test_the_input_of_an_open_batch_cannot_be_deleted(app, client, make, input_id):
    made = make()
    with pytest.raises(openai.ConflictError, match=f"The batch {made.id} still reads this file"):
        client.files.delete(input_id)
    change(app, made.id, status="completed")
    assert client.files.delete(input_id).deleted


def test_a_batch_says_what_it_waits_for_while_it_is_open(app, client, make, redis):
    made = make()
    change(app, made.id, waiting_for="Too many tokens this minute.")
    redis.set(DISPATCHER, "a:1")
    assert not hasattr(client.batches.retrieve(made.id), "waiting_for")  # it is being read
    change(app, made.id, status="in_progress")
    assert client.batches.list().data[0].waiting_for == "Too many tokens this minute."
    redis.delete(DISPATCHER)
    assert client.batches.retrieve(made.id).waiting_for == NO_DISPATCHER
    change(app, made.id, status="completed")
    assert not hasattr(client.batches.retrieve(made.id), "waiting_for")


def test_a_batch_is_deleted_with_its_results_once_it_has_ended(app, client, web, make, input_id):
    made = make()
    path = f"/v1/batches/{made.id}"
    refused = web.delete(path)
    assert refused.status_code == 409 and "has not ended: cancel it first" in refused.json()["error"]["message"]
    results = client.files.create(file=("out.jsonl", LINE), purpose="batch").id
    change(app, made.id, status="completed", output_file_id=results)
    assert http_client(app, "sk-other").delete(path).status_code == 404
    assert web.delete(path).json() == {"id": made.id, "object": "batch", "deleted": True}
    assert [file.id for file in client.files.list()] == [input_id] and not client.batches.list().data
