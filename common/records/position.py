"""Rows of `meta`: up to where the outbox was applied, and the fence of the dispatcher.

The position changes in the transaction that applies a page. The fence is a number that each new dispatcher raises,
so that an earlier one writes nothing more.
"""

from sqlalchemy import Connection, insert, select, update

from common.records.database import insert_new
from common.records.schema import meta

OUTBOX, FENCE = "outbox", "dispatcher"


def stored_position(connection: Connection) -> str:
    """ "" before the first page."""
    return connection.execute(select(meta.c.value).where(meta.c.name == OUTBOX)).scalar_one_or_none() or ""


def move_position(connection: Connection, before: str, after: str) -> bool:
    """False when it is not `before` any more: another consumer was faster, and its transaction has committed."""
    if not stored_position(connection):
        insert_new(connection, meta, [{"name": OUTBOX, "value": ""}])
    is_here = (meta.c.name == OUTBOX) & (meta.c.value == before)
    return connection.execute(update(meta).where(is_here).values(value=after)).rowcount == 1


def raise_fence(connection: Connection) -> int:
    """A number above all that were given before."""
    value = connection.execute(select(meta.c.value).where(meta.c.name == FENCE).with_for_update()).scalar()
    fence = int(value or 0) + 1
    if value is None:
        connection.execute(insert(meta).values(name=FENCE, value=str(fence)))
    else:
        connection.execute(update(meta).where(meta.c.name == FENCE).values(value=str(fence)))
    return fence


def holds_fence(connection: Connection, fence: int) -> bool:
    """Whether this is the last number given. Until the end of the transaction nobody can raise it."""
    same = update(meta).where(meta.c.name == FENCE, meta.c.value == str(fence)).values(value=str(fence))
    return bool(connection.execute(same).rowcount)
