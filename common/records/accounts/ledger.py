"""The ledger: what each owner used, by model, day (in UTC) and tier."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from sqlalchemy import Connection, Select, func, select

from common.records.database import insert_or_add
from common.records.schema import ledger

Dimension = Literal["owner", "model", "tier"]


class Account(NamedTuple):
    """One row's key."""

    owner: str
    model: str
    day: str  # 2026-11-27
    tier: str


@dataclass(slots=True)
class Used:
    """What an account used. Requests count when they end, by their end's day."""

    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt's
    completion_tokens: int = 0
    gpu_us: int = 0


COUNTS = ("requests", "failed", "cancelled", "prompt_tokens", "cached_tokens", "completion_tokens", "gpu_us")


def add(connection: Connection, counts: Mapping[Account, Used]) -> None:
    for account, used in sorted(counts.items(), key=lambda item: item[0]):  # one order for all: no deadlock
        row = account._asdict() | {name: getattr(used, name) for name in COUNTS}
        insert_or_add(connection, ledger, row)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A question to the ledger. Days are inclusive; None: all."""

    first_day: str
    last_day: str
    owners: Collection[str] | None = None
    models: Collection[str] | None = None
    tiers: Collection[str] | None = None


def usage(connection: Connection, wanted: Wanted, group_by: Collection[Dimension]) -> list[tuple[Account, Used]]:
    """The counts of each day and group, in order. A dimension that is not grouped by is ""."""
    groups = [ledger.c.day, *(ledger.c[name] for name in ("owner", "model", "tier") if name in group_by)]
    sums = [func.sum(ledger.c[name]).label(name) for name in COUNTS]
    found = connection.execute(_filtered(select(*groups, *sums), wanted).group_by(*groups).order_by(*groups))
    return [
        (
            Account(row.get("owner", ""), row.get("model", ""), row["day"], row.get("tier", "")),
            Used(*(int(row[name]) for name in COUNTS)),
        )
        for row in found.mappings()
    ]


def _filtered(statement: "Select[tuple[object, ...]]", wanted: Wanted) -> "Select[tuple[object, ...]]":
    statement = statement.where(ledger.c.day.between(wanted.first_day, wanted.last_day))
    for column, chosen in (
        (ledger.c.owner, wanted.owners),
        (ledger.c.model, wanted.models),
        (ledger.c.tier, wanted.tiers),
    ):
        if chosen is not None:
            statement = statement.where(column.in_(chosen))
    return statement
