"""The pages, as the application serves them."""

import re
from urllib.parse import urljoin

import pytest

from api.app import create_app
from common.settings import read_settings

LINK = re.compile(r'(?:href|src)="([^"#:]+)"')


@pytest.mark.parametrize("name", ["none.js", "x" * 300, "..%2f..%2fapp.py", "a%00b"])
def test_a_file_that_there_is_not_is_a_404(name: str) -> None:
    client = create_app(read_settings({"REDIS_URL": "unix:///nowhere.sock"})).test_client()
    assert client.get(f"/static/{name}").status_code == 404


@pytest.mark.parametrize("page", ["/", "/board", "/batches", "/docs"])
def test_every_link_of_a_page_leads_somewhere(page: str) -> None:
    client = create_app(read_settings({"REDIS_URL": "unix:///nowhere.sock"})).test_client()
    links = LINK.findall(client.get(page).get_data(as_text=True))
    assert links
    assert [link for link in links if client.get(urljoin(page, link)).status_code != 200] == []
