"""Conversations: ordered entries, each an item or a reference to a stored response, whose items are derived on reading.

Every function takes the connection of a transaction. A conversation that does not exist or is another owner's is None.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, case, delete, insert, select, update

from common.records.schema import archived_jobs, conversation_entries, conversations

ConversationRow = Row[Any]
EntryRow = Any  # of entries_of()


def add_conversation(connection: Connection, conversation: Mapping[str, Any]) -> None:
    connection.execute(insert(conversations).values(**conversation))


def conversation_of(connection: Connection, owner: str, conversation_id: str) -> ConversationRow | None:
    query = select(conversations).where(conversations.c.id == conversation_id, conversations.c.owner == owner)
    return connection.execute(query).first()


def set_conversation_metadata(connection: Connection, conversation_id: str, metadata: Mapping[str, str]) -> None:
    connection.execute(
        update(conversations).where(conversations.c.id == conversation_id).values(metadata=dict(metadata))
    )


def delete_conversation(connection: Connection, conversation_id: str, ttl_s: int) -> None:
    """Its responses stay as long as any other, unless they were deleted or not to be stored themselves."""
    entries = conversation_entries.c
    query = select(entries.response_id).where(
        entries.conversation_id == conversation_id, entries.response_id.is_not(None)
    )
    responses = connection.execute(query).scalars().all()
    connection.execute(delete(conversations).where(conversations.c.id == conversation_id))
    jobs = archived_jobs.c
    expires = case((jobs.hidden, 0.0), else_=jobs.ended + ttl_s)
    for response_id in responses:  # after the deletion: a response that was just being archived is seen now
        connection.execute(update(archived_jobs).where(jobs.id == response_id).values(expires=expires))


def add_items(connection: Connection, conversation_id: str, items: Sequence[Mapping[str, Any]]) -> None:
    """Items with their ids, behind all others."""
    for item in items:  # one by one, so that the positions are in this order
        values = {"conversation_id": conversation_id, "item_id": item["id"], "item": dict(item), "removed": False}
        connection.execute(insert(conversation_entries).values(**values))


def remove_item(connection: Connection, conversation_id: str, item_id: str) -> None:
    """An item of a response is left out from now on; the response itself stays as it is."""
    entries = conversation_entries.c
    found = connection.execute(
        delete(conversation_entries).where(entries.conversation_id == conversation_id, entries.item_id == item_id)
    )
    if found.rowcount == 0:
        values = {"conversation_id": conversation_id, "item_id": item_id, "removed": True}
        connection.execute(insert(conversation_entries).values(**values))


def entries_of(connection: Connection, conversation_id: str) -> Sequence[EntryRow]:
    """In order: item_id, item, removed, response_id; of an archived response its state and, once derived, its items."""
    entries, jobs = conversation_entries.c, archived_jobs.c
    found: Sequence[EntryRow] = connection.execute(
        select(entries.item_id, entries.item, entries.removed, entries.response_id, jobs.state, jobs.derived)
        .select_from(conversation_entries.outerjoin(archived_jobs, jobs.id == entries.response_id))
        .where(entries.conversation_id == conversation_id)
        .order_by(entries.position)
    ).all()
    return found


def begin_response(
    connection: Connection, conversation_id: str, response_id: str, instead_of: str | None, now: float
) -> bool:
    """The conversation is busy with this response from now on; False when it is with another one than `instead_of`."""
    busy = conversations.c.busy_with
    before = busy.is_(None) if instead_of is None else busy == instead_of
    changed = connection.execute(
        update(conversations)
        .where(conversations.c.id == conversation_id, before)
        .values(busy_with=response_id, busy_since=now)
    )
    if changed.rowcount == 0:
        return False
    values = {"conversation_id": conversation_id, "response_id": response_id, "removed": False}
    connection.execute(insert(conversation_entries).values(**values))
    return True


def drop_response(connection: Connection, conversation_id: str, response_id: str) -> None:
    """As if the response had never begun."""
    entries = conversation_entries.c
    connection.execute(
        delete(conversation_entries).where(
            entries.conversation_id == conversation_id, entries.response_id == response_id
        )
    )
    connection.execute(
        update(conversations)
        .where(conversations.c.id == conversation_id, conversations.c.busy_with == response_id)
        .values(busy_with=None)
    )


def keep_items(connection: Connection, response_id: str, items: bytes) -> None:
    """The items that were derived from an archived response's log: a copy, so that the next reader is faster."""
    connection.execute(update(archived_jobs).where(archived_jobs.c.id == response_id).values(derived=items))
