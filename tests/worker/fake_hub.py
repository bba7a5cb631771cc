"""A hub with one repository, by HTTP: the requests that huggingface_hub makes, and a file that can be held back."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c0ffee" + "0" * 34


class FakeHub(ThreadingHTTPServer):
    """`held`: a file whose second half waits for `release`. `asked`: the files that were fetched."""

    daemon_threads = True

    def __init__(self, repo: str, files: dict[str, bytes], held: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repo = repo
        self.files = files
        self.held = held
        self.release = threading.Event()
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def tree(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for name, data in self.files.items()
        ]

    def close(self) -> None:
        self.release.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub, path = self.server, self.path.partition("?")[0]
        api, files = f"/api/models/{hub.repo}", f"/{hub.repo}/resolve/"
        if path in (f"{api}/revision/main", api):
            siblings = [{"rfilename": name} for name in hub.files]
            self.send(json.dumps({"id": hub.repo, "sha": COMMIT, "siblings": siblings}).encode())
        elif path in (f"{api}/tree/{COMMIT}", f"{api}/tree/main"):
            self.send(json.dumps(hub.tree()).encode())
        elif path.startswith(files) and (name := path.removeprefix(files).partition("/")[2]) in hub.files:
            self.send(hub.files[name], name)
        else:
            self.send(b"", status=404)

    def send(self, data: bytes, name: str = "", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command == "HEAD":
            return
        if name:
            self.server.asked.append(name)
        half = len(data) // 2 if name and name == self.server.held else len(data)
        self.wfile.write(data[:half])
        if half < len(data):
            self.server.release.wait()
            self.wfile.write(data[half:])

    def log_message(self, *_: object) -> None:
        """Quiet."""
