"""The query of GET /v1/usage -> what is asked of the ledger. Our parameters, and OpenAI's."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType

from werkzeug.datastructures import MultiDict

from common.errors import InvalidRequest
from common.records.accounts.ledger import Dimension

DEFAULT_DAYS = 30
MAX_DAYS = 366
FIRST_YEAR = 2000  # earlier days are mistakes, and there may be no days before them
DIMENSIONS: Mapping[str, Dimension | None] = MappingProxyType(
    {
        "key": "owner", "api_key_id": "owner", "model": "model", "tier": "tier", "service_tier": "tier",
        "day": None,  # days are always apart
    }
)  # fmt: skip
KNOWN = frozenset(
    {
        "start_date", "end_date", "start_time", "end_time", "group_by", "group_by[]", "key", "api_key_ids",
        "api_key_ids[]", "model", "models", "models[]", "bucket_width", "limit", "page", "format",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class UsageQuestion:
    """Days are inclusive, in UTC. `keys` are names or owners; an empty tuple: all that the caller may see."""

    first: date
    last: date
    group_by: frozenset[Dimension]
    keys: tuple[str, ...]
    models: tuple[str, ...]
    is_csv: bool


def question_of(query: "MultiDict[str, str]", today: date, *, prefers_csv: bool = False) -> UsageQuestion:
    """Raises InvalidRequest that names the parameter."""
    if unknown := sorted(set(query) - KNOWN):
        raise InvalidRequest(
            f"'{unknown[0][:64]}' is not a parameter of this route: it takes {', '.join(sorted(KNOWN))}.",
            param=unknown[0][:64],
        )
    if query.get("bucket_width", "1d") != "1d":
        raise InvalidRequest("'bucket_width' is 1d here: usage is counted by day.", param="bucket_width")
    form = query.get("format", "csv" if prefers_csv else "json")
    if form not in ("json", "csv"):
        raise InvalidRequest("'format' is json or csv.", param="format")
    is_csv = form == "csv"
    last = min(_last_day(query) or today, today)
    first = _first_day(query) or last - timedelta(days=DEFAULT_DAYS - 1)
    begin = "start_time" if "start_time" in query and "start_date" not in query else "start_date"
    if first > last:
        raise InvalidRequest("The range ends before it begins.", param=begin)
    if (last - first).days >= MAX_DAYS:
        raise InvalidRequest(f"One request covers {MAX_DAYS} days at most: '{begin}' is too early.", param=begin)
    groups = _group_by(query)
    return UsageQuestion(
        _page_start(query, first, last),
        last,
        frozenset(("owner", "model", "tier")) if is_csv and not groups else groups,
        _values(query, "key", "api_key_ids", "api_key_ids[]"),
        _values(query, "model", "models", "models[]"),
        is_csv,
    )


def _group_by(query: "MultiDict[str, str]") -> frozenset[Dimension]:
    chosen: set[Dimension] = set()
    for name in _values(query, "group_by", "group_by[]"):
        if name not in DIMENSIONS:
            raise InvalidRequest("'group_by' is key, model, tier or day, or several of them.", param="group_by")
        if dimension := DIMENSIONS[name]:
            chosen.add(dimension)
    return frozenset(chosen)


def _values(query: "MultiDict[str, str]", *names: str) -> tuple[str, ...]:
    """Of a parameter that may be repeated, or hold several values with commas between them."""
    given = [value for name in names for value in query.getlist(name)]
    return tuple(part.strip() for value in given for part in value.split(",") if part.strip())


def _first_day(query: "MultiDict[str, str]") -> date | None:
    if "start_date" in query:
        return _date(query, "start_date")
    return _time(query, "start_time").date() if "start_time" in query else None


def _last_day(query: "MultiDict[str, str]") -> date | None:
    if "end_date" in query:
        return _date(query, "end_date")
    return (_time(query, "end_time") - timedelta(seconds=1)).date() if "end_time" in query else None  # exclusive


def _page_start(query: "MultiDict[str, str]", first: date, last: date) -> date:
    if "page" not in query:
        return first
    start = _date(query, "page")
    if not first <= start <= last:
        raise InvalidRequest("'page' is the `next_page` of the answer before.", param="page")
    return start


def _date(query: "MultiDict[str, str]", name: str) -> date:
    try:
        day = datetime.strptime(query[name], "%Y-%m-%d").date()
    except ValueError:
        raise InvalidRequest(f"'{name}' must be a date like 2026-11-27.", param=name) from None
    if day.year < FIRST_YEAR:
        raise InvalidRequest(f"'{name}' must be a date from {FIRST_YEAR} on.", param=name)
    return day


def _time(query: "MultiDict[str, str]", name: str) -> datetime:
    try:
        time = datetime.fromtimestamp(int(query[name]), UTC)
    except (ValueError, OverflowError, OSError):
        raise InvalidRequest(f"'{name}' must be a unix time in seconds.", param=name) from None
    if time.year < FIRST_YEAR:
        raise InvalidRequest(f"'{name}' must be a unix time in seconds, from {FIRST_YEAR} on.", param=name)
    return time
