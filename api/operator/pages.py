"""The pages and their parts: static files, served without a key. Their requests need one."""

import gzip
import hashlib
import mimetypes
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from posixpath import dirname, normpath

from flask import Blueprint, Response, request
from werkzeug.exceptions import NotFound
from werkzeug.security import safe_join

STATIC = Path(__file__).parents[1] / "static"
PACKED = frozenset({".woff2", ".png", ".bcmap"})  # by their format
FOR_EVER = "public, max-age=31536000, immutable"
MODULE = re.compile(rb'<script type="module" src="static/([^"]+)">')
IMPORT = re.compile(rb'^(?:import|export) [^;]*?from "(\.[^"]+)"', re.MULTILINE)
ASK_FIRST = "no-cache"  # kept, but asked for each time: "304 Not Modified" if it is still the same


@dataclass(frozen=True)
class Asset:
    plain: bytes
    digest: str
    can_pack: bool = True

    @cached_property
    def packed(self) -> bytes:
        """By gzip, when it is asked for: all files at once would hold up other requests for a second."""
        return gzip.compress(self.plain, 6, mtime=0) if self.can_pack else b""


def asset_of(plain: bytes, *, can_pack: bool = True) -> Asset:
    return Asset(plain, hashlib.sha256(plain).hexdigest()[:16], can_pack)


class Assets:
    """The files of one folder, each read once, and again when it has changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept: dict[Path, tuple[tuple[int, int], Asset]] = {}
        self.pages: dict[str, tuple[str, Asset]] = {}  # name -> the version that it leads to, and the page

    def read(self, name: str) -> Asset:
        path = safe_join(str(self.folder), name)
        if path is None or not os.path.isfile(path):  # which is false for names that no file can have
            raise NotFound
        return self.asset(Path(path))

    def asset(self, path: Path) -> Asset:
        stat = path.stat()
        state = (stat.st_mtime_ns, stat.st_size)
        kept = self.kept.get(path)
        if kept is None or kept[0] != state:
            plain = path.read_bytes()
            kept = self.kept[path] = (state, asset_of(plain, can_pack=path.suffix not in PACKED))
        return kept[1]

    def page(self, name: str) -> Asset:
        """A page whose links lead to the present version of the files; modules find each other by relative paths. It
        names all of them, so that the browser need not read one to ask for the next."""
        version = self.version()
        if self.pages.get(name, ("",))[0] != version:
            plain = MODULE.sub(lambda tag: self.preloads(tag[1].decode()) + tag[0], self.read(name).plain)
            self.pages[name] = (version, asset_of(plain.replace(b'="static/', f'="static/{version}/'.encode())))
        return self.pages[name][1]

    def preloads(self, script: str) -> bytes:
        links = (f'<link rel="modulepreload" href="static/{name}">\n  ' for name in self.modules(script))
        return "".join(links).encode()

    def modules(self, script: str) -> list[str]:
        """The names of all modules that this one loads at once, those that it imports itself first."""
        found = [script]
        for name in found:  # it grows meanwhile
            names = (match.decode() for match in IMPORT.findall(self.read(name).plain))
            paths = (normpath(f"{dirname(name)}/{relative}".lstrip("/")) for relative in names)
            found += [path for path in dict.fromkeys(paths) if path not in found]
        return found[1:]

    def files(self) -> Iterator[Path]:
        return (path for path in sorted(self.folder.rglob("*")) if path.is_file())

    def version(self) -> str:
        """One name for the contents of all files: it stands in their addresses, so that they may be kept for ever."""
        digests = "".join(self.asset(path).digest for path in self.files())
        return "v-" + hashlib.sha256(digests.encode()).hexdigest()[:12]


def page_routes() -> Blueprint:
    routes = Blueprint("pages", __name__)
    assets = Assets(STATIC)

    def page(name: str) -> Response:
        return answer(assets.page(name), "text/html", ASK_FIRST)

    @routes.get("/")
    def index() -> Response:
        return page("index.html")

    @routes.get("/board")
    def board() -> Response:
        return page("board.html")

    @routes.get("/batches")
    def batches() -> Response:
        return page("batches.html")

    @routes.get("/docs")
    def reference() -> Response:
        return page("reference.html")

    @routes.get("/static/<path:name>")
    def static(name: str) -> Response:
        version, _, rest = name.partition("/")
        has_version = version.startswith("v-")
        is_present = has_version and version == assets.version()  # another replica's page may ask for another one
        name = rest if has_version else name
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return answer(assets.read(name), kind, FOR_EVER if is_present else ASK_FIRST)

    return routes


def answer(asset: Asset, kind: str, caching: str) -> Response:
    is_packed = asset.can_pack and request.accept_encodings["gzip"] > 0
    response = Response(asset.packed if is_packed else asset.plain, mimetype=kind)
    response.headers["Cache-Control"] = caching
    response.headers["Vary"] = "Accept-Encoding"
    if is_packed:
        response.headers["Content-Encoding"] = "gzip"
    response.set_etag(f"{asset.digest}-gzip" if is_packed else asset.digest)
    response.make_conditional(request)
    return response
