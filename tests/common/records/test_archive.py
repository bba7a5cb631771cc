"""Archived answers and conversations on SQLite and PostgreSQL."""

import threading
from types import SimpleNamespace

import pytest

from common.records.archive import (
    add_archived,
    archived_job,
    archived_page,
    delete_expired,
    exported,
    held,
    packed,
    remove_archived,
    set_metadata,
)
from common.records.conversations import (
    add_conversation,
    add_items,
    begin_response,
    conversation_of,
    delete_conversation,
    drop_response,
    entries_of,
    keep_items,
    remove_item,
)

ROW = {
    "owner": "me", "queue": "q", "model": "m", "kind": "chat", "state": "finished", "code": "", "created": 1.5,
    "ended": 100.0, "expires": 200.0, "num_prompt": 1, "num_tokens": 2, "max_tokens": 3, "form": packed(b'{"a":1}'),
    "log": packed(b'{"i":0}\n{"end":1}'), "metadata": {"k": "v"}, "hidden": False, "derived": None,
}  # fmt: skip


def row(name, **changes):
    return ROW | {"id": name} | changes


def page(connection, **changes):
    query = {"after": None, "limit": 3, "is_descending": False, "model": None, "matches": lambda metadata: True}
    return [found.id for found in archived_page(connection, "me", "chat", **query | changes)]


@pytest.fixture
def conversation(records):
    with records.begin() as connection:
        add_conversation(connection, {"id": "conv", "owner": "me", "created": 1.0, "metadata": {}})
    return "conv"


def test_a_row_that_is_there_stays_as_it_is(records):
    with records.begin() as connection:
        add_archived(connection, [row("a")])
        assert set_metadata(connection, "me", "a", {"n": "1"}) and not set_metadata(connection, "you", "a", {})
        add_archived(connection, [row("a"), row("b")])
        found = archived_job(connection, "me", "a")
        assert found.metadata == {"n": "1"} and archived_job(connection, "you", "a") is None
        assert exported(found)["form"] == {"a": 1} and exported(found)["log"] == [{"i": 0}, {"end": 1}]


def test_pages_follow_each_other_also_among_answers_of_the_same_moment(records, monkeypatch):
    monkeypatch.setattr("common.records.archive.PAGE_ROWS", 4)
    with records.begin() as connection:
        add_archived(connection, [row(f"a{number}", created=float(number // 4)) for number in range(10)])
        add_archived(connection, [row("failed", state="failed"), row("other", owner="you"), row("r", kind="response")])
    with records.read() as connection:
        assert page(connection) == ["a0", "a1", "a2", "a3"]
        assert page(connection, after=archived_job(connection, "me", "a2"), limit=9) == [f"a{n}" for n in range(3, 10)]
        assert page(connection, is_descending=True, limit=1) == ["a9", "a8"]
        assert page(connection, model="n") == []


def test_a_tombstone_keeps_a_deleted_answer_from_coming_back(records):
    with records.begin() as connection:
        remove_archived(connection, "me", "a", "chat", 1000.0)
        add_archived(connection, [row("a")])
        assert archived_job(connection, "me", "a", with_hidden=True) is None
        assert page(connection) == [] and not set_metadata(connection, "me", "a", {})


def test_what_has_expired_is_removed_page_by_page(records):
    with records.begin() as connection:
        add_archived(connection, [row("a"), row("b"), row("c", expires=None), row("d", expires=300.0)])
        assert (delete_expired(connection, 200.0, 1), delete_expired(connection, 200.0, 9)) == (1, 1)
        assert page(connection) == ["c", "d"]


def test_an_answer_of_a_conversation_is_hidden_and_expires_with_it(records, conversation):
    with records.begin() as connection:
        assert begin_response(connection, conversation, "a", None, 1.0)
        add_archived(connection, [row("a", expires=None), row("b")])
        assert held(connection, ["a", "b"]) == {"a"}
        keep_items(connection, "a", b"x")
        remove_archived(connection, "me", "a", "chat", 1000.0)
        assert archived_job(connection, "me", "a") is None
        assert archived_job(connection, "me", "a", with_hidden=True).derived == b"x"
        delete_conversation(connection, conversation, 50)
        assert delete_expired(connection, 1.0, 9) == 1 and page(connection) == ["b"]


def test_entries_are_in_the_order_in_which_they_were_added(records, conversation):
    with records.begin() as connection:
        add_items(connection, conversation, [{"id": f"i{number}", "n": number} for number in range(3)])
        begin_response(connection, conversation, "a", None, 1.0)
        add_items(connection, conversation, [{"id": "i3"}])
        remove_item(connection, conversation, "i1")
        remove_item(connection, conversation, "of a response")
        entries = entries_of(connection, conversation)
        assert [(entry.item_id, entry.response_id, entry.removed) for entry in entries] == [
            ("i0", None, False), ("i2", None, False), (None, "a", False), ("i3", None, False),
            ("of a response", None, True),
        ]  # fmt: skip
        drop_response(connection, conversation, "a")
        assert conversation_of(connection, "me", conversation).busy_with is None
        assert all(entry.response_id is None for entry in entries_of(connection, conversation))


def test_of_two_responses_that_begin_at_once_one_does(records, conversation):
    start, began = threading.Barrier(4), []

    def begin(name):
        start.wait()
        with records.begin() as connection:
            began.append(begin_response(connection, conversation, name, None, 1.0))

    threads = [threading.Thread(target=begin, args=(f"r{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(began) == [False, False, False, True]
    with records.read() as connection:
        assert len(entries_of(connection, conversation)) == 1


def test_a_response_that_is_archived_while_its_conversation_is_deleted_expires(records, conversation):
    with records.begin() as connection:
        begin_response(connection, conversation, "a", None, 1.0)
    is_held, deleted = threading.Event(), SimpleNamespace(by=None)

    def delete():
        is_held.wait()
        with records.begin() as connection:
            delete_conversation(connection, conversation, 50)

    deleted.by = threading.Thread(target=delete)
    deleted.by.start()
    with records.begin() as connection:
        expires = None if held(connection, ["a"]) else 1.0
        is_held.set()
        add_archived(connection, [row("a", expires=expires)])
    deleted.by.join()
    with records.read() as connection:
        assert archived_job(connection, "me", "a").expires == 150.0
