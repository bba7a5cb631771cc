"""A small HTTP client for a running service: JSON, and server-sent events. Standard library only."""

import json
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import click

from common.settings import Settings


class Client:
    """Every failure ends the command with one sentence."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        self.key = key

    def json(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        with self._open(method, path, body) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    def events(self, method: str, path: str, body: dict[str, Any] | None = None) -> Iterator[dict[str, Any] | str]:
        """A dict for each data frame, a str for each comment; ends with [DONE]."""
        with self._open(method, path, body) as response:
            for line in lines_of(response):
                if line == "data: [DONE]":
                    return
                if line.startswith("data: "):
                    yield json.loads(line[6:])
                elif line.startswith(": "):
                    yield line[2:]
        raise click.ClickException("The connection broke before the end; ask again.")

    def _open(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        data = json.dumps(body).encode() if body is not None else None
        try:
            return urlopen(Request(f"{self.url}{path}", data, headers, method=method), timeout=600)
        except HTTPError as error:
            raise click.ClickException(refusal(error)) from None
        except (URLError, OSError) as error:
            reason = getattr(error, "reason", error)
            raise click.ClickException(
                f"{self.url} does not answer ({reason}); is the service running? Try: omni serve"
            ) from None


def lines_of(response: Any) -> Iterator[str]:
    """Up to the end of the body, or to where the connection broke."""
    with suppress(HTTPException, OSError):
        for raw in response:
            yield raw.decode().rstrip("\n")


def refusal(error: HTTPError) -> str:
    """The server's own words."""
    try:
        return f"{error.code}: {json.load(error)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"


def client_of(context: click.Context) -> Client:
    """For the service that the settings describe, unless --url or --key say otherwise."""
    given = context.obj
    settings: Settings = given["settings"]()
    host = "127.0.0.1" if settings.is_loopback else settings.host
    key = given["key"] or (*settings.admins, *settings.keys)[0]
    return Client(given["url"] or f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{settings.port}", key)
