"""The query of /v1/usage: days, groups and keys, in our words and in OpenAI's."""

from datetime import date

import pytest
from werkzeug.datastructures import MultiDict

from api.usage.question import UsageQuestion, question_of
from common.errors import InvalidRequest

TODAY = date(2026, 11, 27)


def asked(*pairs: tuple[str, str], **options: bool) -> UsageQuestion:
    return question_of(MultiDict(pairs), TODAY, **options)


def test_without_parameters_it_is_the_last_thirty_days() -> None:
    question = asked()
    assert (question.first, question.last) == (date(2026, 10, 29), TODAY)
    assert question.group_by == frozenset() and question.keys == () and not question.is_csv


def test_dates_are_inclusive_and_the_future_is_left_out() -> None:
    question = asked(("start_date", "2026-11-01"), ("end_date", "2026-12-31"))
    assert (question.first, question.last) == (date(2026, 11, 1), TODAY)


def test_unix_times_are_openais_the_end_is_exclusive() -> None:
    question = asked(("start_time", "1793491200"), ("end_time", "1793664000"))  # two whole days
    assert (question.first, question.last) == (date(2026, 11, 1), date(2026, 11, 2))


def test_groups_may_be_repeated_joined_or_named_as_openai_names_them() -> None:
    for pairs in (
        [("group_by", "key,model,day")],
        [("group_by", "key"), ("group_by", "model")],
        [("group_by[]", "api_key_id"), ("group_by[]", "model")],
    ):
        assert asked(*pairs).group_by == {"owner", "model"}


def test_csv_without_groups_has_all_of_them() -> None:
    assert asked(("format", "csv")).group_by == {"owner", "model", "tier"}
    assert asked(prefers_csv=True).is_csv
    assert not asked(("format", "json"), prefers_csv=True).is_csv
    assert asked(("format", "csv"), ("group_by", "day")).group_by == {"owner", "model", "tier"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("start_date", "2026-13-01"),
        ("end_date", "tomorrow"),
        ("start_time", "x"),
        ("end_time", "9" * 40),
        ("end_date", "0001-01-01"),
        ("end_time", "-62135596800"),
        ("group_by", "user_id"),
        ("bucket_width", "1h"),
        ("format", "xml"),
        ("page", "2020-01-01"),
        ("colour", "red"),
    ],
)
def test_a_bad_parameter_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        asked((name, value))
    assert refused.value.param == name


@pytest.mark.parametrize("start", ["2026-11-28", "2025-11-01"])
def test_a_range_is_a_year_at_most_and_ends_after_it_begins(start: str) -> None:
    with pytest.raises(InvalidRequest):
        asked(("start_date", start))


def test_a_page_begins_at_the_day_that_the_page_before_named() -> None:
    question = asked(("start_date", "2026-11-01"), ("page", "2026-11-08"))
    assert (question.first, question.last) == (date(2026, 11, 8), TODAY)
