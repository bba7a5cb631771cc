"""The pages' files: compressed, kept by browsers for ever under an address of their contents, else asked for first."""

import gzip
import re

import pytest
from flask import Flask

from api.operator.pages import STATIC, Assets, page_routes

FIRST_PAINT_BYTES = 150_000


@pytest.fixture
def client():
    app = Flask("pages", static_folder=None)
    app.register_blueprint(page_routes())
    return app.test_client()


def get(client, path, **headers):
    return client.get(path, headers={"Accept-Encoding": "gzip", **headers})


def linked(html):
    """Addresses of the scripts and styles of a page."""
    return ["/" + name for name in re.findall(r'(?:src|href)="(static/[^"]+)"', html)]


def imported(path, script):
    """Addresses of the modules that a module imports when it is loaded."""
    folder = path.rsplit("/", 1)[0]
    for name in re.findall(r'^(?:import|export) [^;]*?from "(\.[^"]+)"', script, re.MULTILINE):
        parts = folder.split("/")
        for part in name.split("/"):
            parts = parts[:-1] if part == ".." else parts if part == "." else [*parts, part]
        yield "/".join(parts)


@pytest.mark.parametrize("page", ["/", "/board", "/batches"])
def test_the_first_paint_costs_little(client, page):
    answer = get(client, page)
    num_bytes, seen, todo = len(answer.data), set(), linked(gzip.decompress(answer.data).decode())
    named = set(todo)
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        assert path in named, "a module is asked for only once another one is read"
        file = get(client, path)
        assert file.status_code == 200, path
        num_bytes += len(file.data)
        if path.endswith(".js"):
            todo += imported(path, gzip.decompress(file.data).decode())
    assert len(seen) > 5
    assert num_bytes < FIRST_PAINT_BYTES
    print(f"{page}: {len(seen) + 1} files, {num_bytes} bytes")


def test_files_of_the_present_version_are_kept_for_ever(client):
    style = next(path for path in linked(client.get("/").text) if path.endswith("style.css"))
    assert re.fullmatch(r"/static/v-[0-9a-f]{12}/style.css", style)
    assert client.get(style).headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert client.get("/").headers["Cache-Control"] == "no-cache"


def test_files_of_another_version_or_of_none_are_asked_for_first(client):
    for path in ("/static/style.css", "/static/v-0123456789ab/style.css"):
        answer = client.get(path)
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.data == (STATIC / "style.css").read_bytes()
        again = client.get(path, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.data) == (304, b"")


def test_compressed_and_plain_are_two_entries(client):
    plain, packed = client.get("/static/app.js"), get(client, "/static/app.js")
    assert gzip.decompress(packed.data) == plain.data
    assert packed.headers["Content-Encoding"] == "gzip" and "Content-Encoding" not in plain.headers
    assert packed.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"
    assert packed.headers["ETag"] != plain.headers["ETag"]
    refused = get(client, "/static/app.js", **{"Accept-Encoding": "gzip;q=0"})
    assert "Content-Encoding" not in refused.headers


def test_fonts_are_not_compressed_twice(client):
    font = get(client, "/static/vendor/katex/fonts/KaTeX_Main-Regular.woff2")
    assert font.mimetype == "font/woff2" and "Content-Encoding" not in font.headers


@pytest.mark.parametrize("name", ["nowhere.css", "v-0123456789ab/", "v-0123456789ab/../../app.py", "../app.py", "chat"])
def test_what_is_no_file_of_the_folder_is_not_found(client, name):
    assert client.get(f"/static/{name}").status_code == 404


def test_a_changed_file_changes_the_version(tmp_path):
    (tmp_path / "a.js").write_text("1")
    assets = Assets(tmp_path)
    before = assets.version()
    (tmp_path / "a.js").write_text("22")
    assert assets.version() != before and assets.read("a.js").plain == b"22"
