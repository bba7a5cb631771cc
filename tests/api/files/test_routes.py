"""/v1/files, as the `openai` package sends and reads it."""

import io
import os
import time
from contextlib import contextmanager

import openai
import pytest
from sqlalchemy.exc import OperationalError

from api.files import receive
from api.schema.batch.answers import FileAnswer
from common.errors import Conflict
from common.records.batches import add_batch
from tests.api.sdk import application, http_client, openai_client

LINE = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}}\n'


@pytest.fixture
def app(valkey_url, tmp_path):
    return application(valkey_url, tmp_path)


@pytest.fixture
def client(app):
    return openai_client(app)


@pytest.fixture
def web(app):
    return http_client(app)


def names(tmp_path):
    folder = tmp_path / "files"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def put(client, data=LINE, purpose="batch", name="a.jsonl", **options):
    return client.files.create(file=(name, data), purpose=purpose, **options)


def test_an_uploaded_file_is_described_listed_read_and_deleted(client, tmp_path):
    data = os.urandom(3_000_000)
    FileAnswer.model_validate(put(client).model_dump(), extra="forbid")
    client.files.delete(next(iter(client.files.list())).id)
    made = put(client, data, purpose="user_data", name="../../etc/päss\x7f word.bin")
    assert (made.object, made.bytes, made.purpose, made.status) == ("file", len(data), "user_data", "processed")
    assert made.filename == "päss word.bin" and made.expires_at is None
    assert abs(made.created_at - time.time()) < 60
    assert client.files.retrieve(made.id) == made
    assert list(client.files.list()) == [made]
    assert client.files.content(made.id).content == data
    sent = client.files.with_raw_response.content(made.id).headers["Content-Disposition"]
    assert sent == "attachment; filename*=UTF-8''p%C3%A4ss%20word.bin"
    assert names(tmp_path) == [made.id]
    gone = client.files.delete(made.id)
    assert (gone.id, gone.object, gone.deleted) == (made.id, "file", True)
    assert names(tmp_path) == []
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="No such File object: file-"):
            call(made.id)


def test_a_file_for_a_batch_expires_after_thirty_days_and_others_as_they_say(client):
    assert put(client).expires_at - put(client).created_at == pytest.approx(30 * 24 * 3600, abs=2)
    made = put(client, purpose="user_data", expires_after={"anchor": "created_at", "seconds": 3600})
    assert made.expires_at - made.created_at == 3600


def test_an_expired_file_is_gone_before_it_is_removed(client, monkeypatch):
    made = put(client, expires_after={"anchor": "created_at", "seconds": 3600})
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    assert list(client.files.list()) == []
    with pytest.raises(openai.NotFoundError):
        client.files.content(made.id)


def test_fields_may_follow_the_file_as_curl_sends_them(web):
    form = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        b'abc\r\n--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--x--\r\n'
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert web.post("/v1/files", content=form, headers=headers).json()["bytes"] == 3


@pytest.mark.parametrize(
    ("fields", "param", "what"),
    [
        ({"purpose": "fine-tune"}, "purpose", "must be 'batch' or 'user_data'"),
        ({"purpose": "batch_output"}, "purpose", "made by batches only"),
        ({}, "purpose", "'purpose' is missing"),
        ({"purpose": "batch", "expires_after": "{}"}, "expires_after", "two fields"),
        ({"purpose": "batch", "expires_after[anchor]": "now"}, "expires_after[anchor]", "'created_at'"),
        ({"purpose": "batch", "expires_after[seconds]": "3600"}, "expires_after[anchor]", "'created_at'"),
        ({"purpose": "batch", "expires_after[anchor]": "created_at"}, "expires_after[seconds]", "from 3600 to"),
        (
            {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "3599"},
            "expires_after[seconds]",
            "from 3600 to 2592000",
        ),
    ],
    ids=range(8),
)
def test_a_wrong_field_is_refused_by_name_and_leaves_nothing(web, tmp_path, fields, param, what):
    answer = web.post("/v1/files", data=fields, files={"file": ("a", LINE)})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param and what in answer.json()["error"]["message"]
    assert names(tmp_path) == []


def test_a_form_without_a_file_an_empty_one_and_a_body_that_is_no_form_are_refused(web, client):
    assert web.post("/v1/files", files={"purpose": (None, "batch")}).json()["error"]["message"] == "'file' is missing."
    with pytest.raises(openai.BadRequestError, match="The file is empty"):
        put(client, b"")
    assert web.post("/v1/files", json={"purpose": "batch"}).status_code == 415
    assert web.post("/v1/files", content=b"x", headers={"Content-Type": "multipart/form-data"}).status_code == 400
    assert web.post("/v1/files", content=b"x", headers={"Content-Type": "text/x", "Content-Encoding": "gzip"}).is_error


@pytest.mark.parametrize(("purpose", "most"), [("batch", "MAX_BATCH_BYTES"), ("user_data", "MAX_FILE_BYTES")])
def test_a_file_may_be_as_large_as_its_purpose_allows(client, tmp_path, monkeypatch, purpose, most):
    monkeypatch.setattr(receive, most, 2_000_000)
    assert put(client, bytes(2_000_000), purpose=purpose).bytes == 2_000_000
    with pytest.raises(openai.APIStatusError, match="larger than 2000000 bytes") as refused:
        put(client, bytes(2_000_001), purpose=purpose)
    assert refused.value.status_code == 413 and len(names(tmp_path)) == 1


def test_a_key_keeps_no_more_bytes_than_its_share_and_others_have_theirs(app, client, tmp_path, monkeypatch):
    monkeypatch.setattr(receive, "MAX_OWNER_BYTES", 1_000_000)
    put(client, bytes(900_000))
    with pytest.raises(openai.InternalServerError, match="of 1000000 that a key may keep") as refused:
        put(client, bytes(200_000))
    assert refused.value.status_code == 507 and refused.value.response.headers["x-should-retry"] == "false"
    put(openai_client(app, "sk-other"), bytes(200_000))
    assert len(names(tmp_path)) == 2


def test_the_share_is_checked_again_when_the_upload_ends(app, client, tmp_path, monkeypatch):
    """Two uploads that each had room when they began do not both keep it."""
    monkeypatch.setattr(receive, "MAX_OWNER_BYTES", 1_000_000)
    first = receive.Upload.commit

    def another_first(upload, record):
        monkeypatch.setattr(receive.Upload, "commit", first)
        put(client, bytes(700_000))
        first(upload, record)

    monkeypatch.setattr(receive.Upload, "commit", another_first)
    with pytest.raises(openai.InternalServerError, match="that a key may keep"):
        put(client, bytes(700_000))
    assert len(names(tmp_path)) == 1


def test_a_full_disk_refuses_before_it_is_full_and_a_failed_write_leaves_nothing(client, app, tmp_path, monkeypatch):
    files = type(app.extensions["omni"].files)
    with monkeypatch.context() as full, pytest.raises(openai.InternalServerError, match="no room") as refused:
        full.setattr(files, "has_room", lambda *_: False)
        put(client, bytes(2_000_000))
    assert refused.value.status_code == 507

    def no_space(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full, pytest.raises(openai.InternalServerError, match="no room"):
        full.setattr("common.files.storage.PendingFile.commit", no_space)
        put(client, bytes(2_000_000))
    with monkeypatch.context() as broken, pytest.raises(openai.InternalServerError, match="cannot be written now"):
        broken.setattr("common.files.storage.PendingFile.write", lambda *_: os.listdir("/nowhere"))
        put(client, bytes(2_000_000))
    assert names(tmp_path) == [] and list(client.files.list()) == []


def test_a_record_that_cannot_be_written_leaves_no_bytes(client, app, tmp_path, monkeypatch):
    def failed(*_):
        raise Conflict("no")

    monkeypatch.setattr(receive, "add_file", failed)
    with pytest.raises(openai.ConflictError):
        put(client)
    assert names(tmp_path) == []


def test_a_body_that_ends_early_leaves_nothing(app, tmp_path):
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(3_000_000)
    answer = app.test_client().post(
        "/v1/files",
        input_stream=io.BytesIO(form),
        headers={"Authorization": "Bearer sk-local", "Content-Type": "multipart/form-data; boundary=x"},
        content_length=len(form) + 100,
    )
    assert answer.status_code == 400 and "ends before" in answer.get_json()["error"]["message"]
    assert names(tmp_path) == []


def test_another_key_sees_nothing_of_a_file(app, client):
    made, other = put(client), openai_client(app, "sk-other")
    assert list(other.files.list()) == []
    for call in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(made.id)
    assert client.files.retrieve(made.id).id == made.id


def test_files_are_listed_in_pages_by_purpose_and_in_both_orders(client, web):
    made = [put(client, purpose=purpose).id for purpose in ("batch", "user_data") * 3]
    assert [file.id for file in client.files.list(limit=2)] == made[::-1]
    assert [file.id for file in client.files.list(limit=4, order="asc")] == made
    assert [file.id for file in client.files.list(purpose="user_data", order="asc")] == made[1::2]
    assert list(client.files.list(purpose="fine-tune")) == []
    page = web.get("/v1/files", params={"limit": 2, "after": made[3]}).json()
    assert (page["object"], page["first_id"], page["last_id"], page["has_more"]) == ("list", made[2], made[1], True)


@pytest.mark.parametrize("query", ["limit=0", "limit=10001", "limit=x", "order=up", "purpose=x", "after=file-no"])
def test_a_wrong_query_is_refused_by_name(web, query):
    answer = web.get(f"/v1/files?{query}")
    assert answer.status_code == 400 and answer.json()["error"]["param"] == query.partition("=")[0]


def test_a_file_that_a_batch_reads_is_deleted_only_after_its_end(app, client):
    records, made = app.extensions["omni"].records, put(client)
    batch = {
        "owner": "o",
        "dialect": "openai",
        "endpoint": "/v1/embeddings",
        "completion_window": "24h",
        "created": 1.0,
    }
    with records.begin() as connection:
        add_batch(connection, batch | {"id": "b-1", "input_file_id": made.id, "status": "completed", "expires": 2.0})
        add_batch(connection, batch | {"id": "b-2", "input_file_id": made.id, "status": "in_progress", "expires": 2.0})
    with pytest.raises(openai.ConflictError, match="The batch b-2 still reads this file"):
        client.files.delete(made.id)
    assert client.files.content(made.id).content == LINE


DATA = bytes(range(256)) * 4000


@pytest.mark.parametrize(
    ("sent", "status", "start", "end"),
    [
        ({}, 200, 0, len(DATA)),
        ({"Range": "bytes=0-0"}, 206, 0, 1),
        ({"Range": "bytes=1000-"}, 206, 1000, len(DATA)),
        ({"Range": "bytes=-5"}, 206, len(DATA) - 5, len(DATA)),
        ({"Range": "bytes=300000-799999"}, 206, 300_000, 800_000),
        ({"Range": "bytes=10-99999999"}, 206, 10, len(DATA)),
        ({"Range": "bytes=5-9", "If-Range": "ETAG"}, 206, 5, 10),
        ({"Range": "bytes=5-9", "If-Range": '"another"'}, 200, 0, len(DATA)),
        ({"Range": "items=0-1"}, 200, 0, len(DATA)),
        ({"Range": "bytes=abc"}, 200, 0, len(DATA)),
        ({"Range": "bytes=5-2"}, 200, 0, len(DATA)),
        ({"Range": "bytes=0-1,4-5"}, 200, 0, len(DATA)),
    ],
    ids=range(12),
)
def test_content_comes_whole_or_as_the_range_that_was_asked_for(client, web, sent, status, start, end):
    made = put(client, DATA, purpose="user_data")
    tag = f'"{made.id}"'
    answer = web.get(f"/v1/files/{made.id}/content", headers={name: v.replace("ETAG", tag) for name, v in sent.items()})
    assert answer.status_code == status and answer.content == DATA[start:end]
    assert answer.headers["Content-Length"] == str(end - start)
    assert answer.headers["ETag"] == tag and answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "attachment; filename=a.jsonl"
    if status == 206:
        assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(DATA)}"


def test_a_range_behind_the_end_is_416_and_a_known_file_304(client, web):
    made = put(client, DATA)
    path = f"/v1/files/{made.id}/content"
    behind = web.get(path, headers={"Range": f"bytes={len(DATA)}-"})
    assert behind.status_code == 416 and behind.headers["Content-Range"] == f"bytes */{len(DATA)}"
    known = web.get(path, headers={"If-None-Match": f'"{made.id}"'})
    assert known.status_code == 304 and known.content == b""
    head = web.head(path)
    assert head.status_code == 200 and head.headers["Content-Length"] == str(len(DATA)) and head.content == b""


def test_bytes_that_are_gone_are_a_404(client, tmp_path):
    made = put(client)
    (tmp_path / "files" / made.id).unlink()
    with pytest.raises(openai.NotFoundError, match="are gone"):
        client.files.content(made.id)


def test_a_commit_whose_answer_was_lost_leaves_a_whole_file(app, client, web, monkeypatch):
    records = app.extensions["omni"].records
    begin = records.begin

    @contextmanager
    def lost():
        with begin() as connection:
            yield connection
        raise OperationalError("COMMIT", {}, Exception("the connection ended"))

    with monkeypatch.context() as broken:
        broken.setattr(records, "begin", lost)
        with pytest.raises(openai.InternalServerError):
            put(client)
    [kept] = client.files.list().data
    assert web.get(f"/v1/files/{kept.id}/content").content == LINE
