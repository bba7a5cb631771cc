"""The size of a page, as the query asks for it."""

import pytest
from flask import Flask

from api.request.pages import page_size
from common.errors import InvalidRequest


@pytest.mark.parametrize(("query", "size"), [("", 20), ("?limit=1", 1), ("?limit=100", 100), ("?limit=", 20)])
def test_a_page_is_as_long_as_asked(query, size):
    with Flask("x").test_request_context(f"/v1/jobs{query}") as context:
        assert page_size(context.request) == size


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "1.5", "²", "9" * 20, "000001" + "9" * 5000])
def test_a_page_of_another_length_is_refused(limit):
    with (
        Flask("x").test_request_context(f"/v1/jobs?limit={limit}") as context,
        pytest.raises(InvalidRequest, match="'limit' must be a whole number from 1 to 100"),
    ):
        page_size(context.request)
