"""A small HTTP client for a running service: JSON, and server-sent events. Standard library only."""

import json
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from itertools import chain
from pathlib import Path
from ssl import SSLError
from types import MappingProxyType
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import ProxyHandler, Request, build_opener

import click

from cli.terminal import show_note
from common.addresses import LOOPBACK, url_of
from common.settings import Settings

CHAT = "/v1/chat/completions"
RESUME_S = 25.0  # the service ends a job without a reader after 30
PAUSE_S = 0.5
PAGE = 100  # of a list, in one request
PIECE_BYTES = 256 * 1024
ENVIRONMENT = MappingProxyType({"url": "OPENAI_BASE_URL", "key": "OPENAI_API_KEY"})
UNAUTHORIZED, TOO_MANY_REQUESTS, SERVER_ERROR = 401, 429, 500


class Refused(click.ClickException):
    """A refusal that a repeated request would get again."""


class StoppedWhileAway(KeyboardInterrupt):
    """Ctrl-C while a broken chat waited for the service, which may still have the job."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id)
        self.job_id = job_id


class Client:
    """Reports every failure as a ClickException of one sentence."""

    def __init__(self, url: str, key: str, origin: str = "") -> None:
        """`origin`: a sentence on where address and key are from, for the refusals that may come from it."""
        self.url = url.rstrip("/").removesuffix("/v1")
        self.key = key
        self._origin = origin
        self._is_here = urlsplit(self.url).hostname in LOOPBACK  # where no proxy of the environment leads
        self._opener = build_opener(*[ProxyHandler({})] * self._is_here)

    def json(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, allowed: Collection[int] = ()
    ) -> dict[str, Any]:
        """`allowed`: statuses of refusals whose body is an answer all the same."""
        with self._open(method, path, body, allowed=allowed) as response:
            try:
                answer: dict[str, Any] = json.load(response)
            except ValueError:
                raise Refused(f"{self.url} is no service of this kind: {path} is not JSON. {self._origin}") from None
            return answer

    def listed(self, path: str, limit: int, query: Sequence[tuple[str, str]] = ()) -> tuple[list[dict[str, Any]], bool]:
        """The first `limit` items of a list, and whether there are more."""
        found, after, has_more = list[dict[str, Any]](), "", True
        while has_more and len(found) < limit:
            asked = [*query, ("limit", str(min(PAGE, limit - len(found)))), *([("after", after)] if after else [])]
            answer = self.json("GET", f"{path}?{urlencode(asked)}")
            found += answer["data"]
            after, has_more = answer["last_id"], answer["has_more"]
        return found, has_more

    def text(self, method: str, path: str) -> str:
        with self._open(method, path) as response:
            text: str = response.read().decode()
            return text

    def upload(self, file: Path, purpose: str) -> dict[str, Any]:
        """POST /v1/files; the file is read as it is sent."""
        boundary = secrets.token_hex(16)
        parts = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n{purpose}\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="input.jsonl"\r\n'
            "Content-Type: application/jsonl\r\n\r\n"
        ).encode()
        end = f"\r\n--{boundary}--\r\n".encode()
        with file.open("rb") as content:
            pieces = chain((parts,), iter(partial(content.read, PIECE_BYTES), b""), (end,))
            headers = {
                "Content-Type": f"multipart/form-data; boundary={boundary}",
                "Content-Length": str(len(parts) + file.stat().st_size + len(end)),
            }
            with self._open("POST", "/v1/files", data=pieces, headers=headers) as response:
                answer: dict[str, Any] = json.load(response)
                return answer

    def download(self, path: str, to: Path) -> None:
        """The body of a GET as a file, which is there when it is whole."""
        part = to.with_name(f"{to.name}.part")
        with self._open("GET", path) as response, part.open("wb") as file:
            try:
                shutil.copyfileobj(response, file)
                is_whole = not response.length  # what is left of a body that broke off
            except HTTPException:
                is_whole = False
        if not is_whole:
            raise click.ClickException("The connection broke before the end; ask again.")
        part.replace(to)

    def events(self, method: str, path: str, body: dict[str, Any] | None = None) -> Iterator[dict[str, Any] | str]:
        """A dict for each data frame, a str for each comment; ends with [DONE]."""
        events = Events()
        with self._open(method, path, body) as response:
            yield from events.read(response)
        if not events.is_done:
            raise click.ClickException("The connection broke before the end; ask again.")

    def chat(self, body: dict[str, Any]) -> Iterator[dict[str, Any] | str]:
        """The events of a streamed chat. A broken connection is resumed after the last event received.

        Raises StoppedWhileAway for Ctrl-C meanwhile, when there is no connection whose closing would end the job.
        """
        events = Events()
        options = {"include_usage": True, "include_event_ids": True}
        response = self._open("POST", CHAT, body | {"stream": True, "stream_options": options})
        job_id = response.headers["Omni-Job-Id"]
        while True:
            last = events.last
            with response:
                yield from events.read(response)
            if events.is_done:
                return
            yield f"waiting for {self.url}: the connection broke"
            try:
                if events.last == last:
                    time.sleep(PAUSE_S)
                response = self._open_again(f"{CHAT}/{job_id}?stream=true&starting_after={events.last}")
            except KeyboardInterrupt:
                raise StoppedWhileAway(job_id) from None

    def _open_again(self, path: str) -> Any:
        """Retry for as long as the job waits for a reader."""
        deadline = time.monotonic() + RESUME_S
        while True:
            try:
                return self._open("GET", path)
            except Refused:
                raise
            except click.ClickException:
                if time.monotonic() > deadline:
                    raise
            time.sleep(PAUSE_S)

    def _open(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        data: Any = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        allowed: Collection[int] = (),
    ) -> Any:
        """`data`: what is sent instead of a JSON body, with its headers."""
        sent = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", **headers}
        data = json.dumps(body).encode() if body is not None else data
        try:
            return self._opener.open(Request(f"{self.url}{path}", data, sent, method=method), timeout=600)
        except HTTPError as error:
            if error.code in allowed:
                return error
            is_final = error.code < SERVER_ERROR and error.code != TOO_MANY_REQUESTS
            about_key = self._origin if error.code == UNAUTHORIZED else ""
            raise (Refused if is_final else click.ClickException)(f"{refusal(error)}{about_key}") from None
        except (URLError, OSError) as error:
            raise click.ClickException(f"{self._silence(error)}{self._origin}") from None

    def _silence(self, error: OSError) -> str:
        """Why there is no answer, and what to do."""
        reason = getattr(error, "reason", error)
        if isinstance(reason, SSLError):
            return f"{self.url} does not speak TLS, or its certificate is not accepted: {reason.reason or reason}"
        why = getattr(reason, "strerror", None) or reason
        todo = "is the service running? Try: omni serve" if self._is_here else "check the address, and that it runs."
        return f"{self.url} does not answer ({why}); {todo}"


def asked_again(ask: Callable[[], Any], pause_s: float) -> Iterator[Any]:
    """What it answers, for as long as that is asked for. A service that is away is waited for, and told of once."""
    is_away = False
    while True:
        try:
            answer = ask()
        except Refused:
            raise
        except click.ClickException as error:
            if not is_away:
                show_note(error.message)
            is_away = True
        else:
            is_away = False
            yield answer
        time.sleep(pause_s)


class Events:
    """One stream's position across its connections: the number of the last event, and whether the stream ended."""

    def __init__(self) -> None:
        self.last = 0
        self.is_done = False

    def read(self, response: Any) -> Iterator[dict[str, Any] | str]:
        """Events up to the end, or to where the connection broke."""
        number = self.last
        for line in lines_of(response):
            if line == "data: [DONE]":
                self.is_done = True
                return
            if line.startswith("id: "):
                number = int(line[4:])
            elif line.startswith("data: "):
                self.last = number
                yield json.loads(line[6:])
            elif line.startswith(": "):
                yield line[2:]


def lines_of(response: Any) -> Iterator[str]:
    """The complete lines of a body, to its end or to where the connection broke."""
    with suppress(HTTPException, OSError):
        for raw in response:
            if raw.endswith(b"\n"):
                yield raw.decode().rstrip("\n")


def refusal(error: HTTPError) -> str:
    """The server's error message."""
    try:
        return f"{error.code}: {json.load(error)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"


def client_of(context: click.Context) -> Client:
    """A client for --url and --key; by default for the service that the settings describe."""
    given = context.obj
    url, key = given["url"], given["key"]
    if url and not is_http_address(url):
        name = "OPENAI_BASE_URL=" if "url" in given.get("of_environment", ()) else "--url "
        raise click.UsageError(f"{name}{url} is no address; write it as http://127.0.0.1:8000")
    if not (url and key):
        settings: Settings = given["settings"]()
        url = url or own_url(settings)
        key = key or (*settings.server.admins, *settings.server.api_keys)[0]
    return Client(url, key, origin_of(given.get("of_environment", ())))


def own_url(settings: Settings) -> str:
    return url_of(settings.server.host, settings.server.port)


def origin_of(names: Collection[str]) -> str:
    """What of address and key is the environment's, as an addition to a sentence."""
    variables = [ENVIRONMENT[name] for name in names]
    return f" ({' and '.join(variables)} of the environment {'is' if len(variables) == 1 else 'are'} used)" * bool(
        names
    )


def is_ours(context: click.Context) -> bool:
    """True if the service is the one that the settings of this checkout describe."""
    url = context.obj["url"]
    return url is None or Client(url, "").url == own_url(context.obj["settings"]())


def is_http_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is not a number
        return False
