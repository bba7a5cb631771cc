"""Rows of the ledger as OpenAI's buckets, read by its own types, and as CSV."""

from datetime import date

from openai.types.admin.organization import UsageCompletionsResponse

from api.usage.report import as_csv, buckets
from common.records.accounts.ledger import Account, Used

FIRST, LAST = date(2026, 11, 26), date(2026, 11, 27)
ROWS = [
    (Account("o1", "m", "2026-11-27", "default"), Used(3, 1, 0, 100, 40, 20, 1_500_000)),
    (Account("o2", "m", "2026-11-27", "flex"), Used(1, 0, 1, 10, 0, 5, 250_000)),
]


def name_of(owner: str) -> str:
    return {"o1": "alice"}.get(owner, owner)


def test_each_day_is_a_bucket_also_without_usage() -> None:
    data = buckets(ROWS, FIRST, LAST, {"owner", "model", "tier"}, name_of)
    page = UsageCompletionsResponse.model_validate(
        {"object": "page", "data": data, "has_more": False, "next_page": None}
    )
    assert [len(bucket.results) for bucket in page.data] == [0, 2]
    assert page.data[0].end_time == page.data[1].start_time == 1795737600
    first, second = page.data[1].results
    assert first.object == "organization.usage.completions.result"
    assert (first.num_model_requests, first.input_tokens, first.input_cached_tokens, first.output_tokens) == (
        3,
        100,
        40,
        20,
    )
    assert (first.api_key_id, first.model, first.service_tier) == ("o1", "m", "default")
    assert data[1]["results"][0]["key"] == "alice" and data[1]["results"][0]["gpu_seconds"] == 1.5
    assert second.service_tier == "flex" and data[1]["results"][1]["num_cancelled"] == 1


def test_what_is_not_grouped_by_is_null() -> None:
    [only] = buckets([(Account("", "", "2026-11-27", ""), Used(4))], LAST, LAST, (), name_of)[0]["results"]
    assert only["num_model_requests"] == 4
    assert {only[name] for name in ("api_key_id", "key", "model", "service_tier", "batch")} == {None}


def test_csv_has_a_line_per_day_and_group() -> None:
    assert as_csv(ROWS, {"owner", "model", "tier"}, name_of) == (
        "day,key,model,tier,requests,failed,cancelled,prompt_tokens,cached_tokens,completion_tokens,gpu_seconds\n"
        "2026-11-27,alice,m,default,3,1,0,100,40,20,1.500000\n"
        "2026-11-27,o2,m,flex,1,0,1,10,0,5,0.250000\n"
    )
    assert as_csv([], {"model"}, name_of).startswith("day,model,requests,")
