"""Rows of every table, made from its columns alone, so that a new table is never left out of a test."""

import json
import zlib
from itertools import count
from typing import Any

from sqlalchemy import JSON, Boolean, Column, Float, Integer, LargeBinary, Table, insert

from common.records.accounts.owned import owned_tables
from common.records.database import Connection


def fill(connection: Connection, owner: str, number: int = 1) -> None:
    """`number` rows of this owner in each table. A child's parent is the row of the same number."""
    for table in owned_tables():
        for index in range(number):
            connection.execute(insert(table).values(row(table, owner, index)))


def row(table: Table, owner: str, index: int) -> dict[str, Any]:
    numbers = count(index * 100 + 1)
    return {
        column.name: value(table, column, owner, index, next(numbers))
        for column in table.c
        if column.autoincrement is not True
    }


def value(table: Table, column: "Column[Any]", owner: str, index: int, number: int) -> Any:
    if column.name == "owner":
        return owner
    if column.foreign_keys or column.name == "id":
        return f"{owner}-{index}"
    kind = column.type
    if isinstance(kind, JSON):
        return {"of": owner}
    if isinstance(kind, LargeBinary):
        text = json.dumps({"of": owner}).encode()
        return zlib.compress(text) if table.name == "archived_jobs" else text
    if isinstance(kind, Boolean):
        return False
    if isinstance(kind, (Float, Integer)):
        return number
    return f"{owner[:20]}-{number}"[: getattr(kind, "length", None) or 99]
