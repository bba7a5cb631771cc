"""omni usage."""

from cli.usage import in_table, rows_of, total


def test_the_total_is_the_sum_of_what_was_measured_and_not_of_what_is_shown():
    numbers = ("num_model_requests", "num_failed", "num_cancelled", "input_tokens", "input_cached_tokens")
    result = dict.fromkeys(("key", "model", "service_tier"), "x") | dict.fromkeys((*numbers, "output_tokens"), 1)
    rows = rows_of({"data": [{"start_time": 0, "results": [result | {"gpu_seconds": 0.004}] * 10}]})
    assert [in_table(value) for value in total(rows)[-2:]] == [10, 0.04]
