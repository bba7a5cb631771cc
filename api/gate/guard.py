"""Checks every request's Host name and framing, tidies its path; adds request ids and security headers to answers."""

import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from flask import Flask, Request, Response, g, request

from common.addresses import LOOPBACK
from common.errors import InvalidRequest, MisdirectedRequest, UnsupportedCoding
from common.settings import Settings

SLASHES = re.compile("/{2,}")
REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    }
)


class TidyPaths:
    """WSGI: '/v1/models/' and '//v1/models' are '/v1/models', which a base URL that ends in a slash leads to."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        environ["PATH_INFO"] = SLASHES.sub("/", environ.get("PATH_INFO", "")).rstrip("/") or "/"
        return self._app(environ, start_response)


def install_guard(app: Flask, settings: Settings) -> None:
    app.wsgi_app = TidyPaths(app.wsgi_app)  # type: ignore[method-assign]
    hosts = allowed_hosts(settings)

    @app.before_request
    def check() -> None:
        given = request.headers.get("X-Request-Id", "")
        g.request_id = given if REQUEST_ID.fullmatch(given) else uuid4().hex
        check_framing(request)
        if hosts and host_name(request.host) not in hosts:
            raise MisdirectedRequest(
                f"This server does not answer for host {request.host[:100]!r}; add its origin to OMNI_CORS_ORIGINS.",
            )

    @app.after_request
    def stamp(response: Response) -> Response:
        response.headers["X-Request-Id"] = g.get("request_id", "")
        response.headers["Request-Id"] = g.get("request_id", "")  # Anthropic's name for it
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response


def allowed_hosts(settings: Settings) -> frozenset[str]:
    """The Host names that are answered; empty: any. On loopback only known ones, against DNS rebinding, and no `*`."""
    server = settings.server
    if not server.is_loopback:
        return frozenset()
    origins = (urlsplit(origin).hostname or "" for origin in server.cors_origins)
    return frozenset({*LOOPBACK, server.host.lower(), *origins} - {""})


def check_framing(request: Request) -> None:
    """Raises InvalidRequest or UnsupportedCoding where RFC 9112 tells a server to refuse and gunicorn accepts."""
    environ = request.environ
    if "HTTP_HOST" not in environ and environ.get("SERVER_PROTOCOL") == "HTTP/1.1":
        raise InvalidRequest("An HTTP/1.1 request must have a Host header.")
    coding = environ.get("HTTP_TRANSFER_ENCODING", "chunked")
    if coding.strip().lower() != "chunked":
        raise UnsupportedCoding(
            f"This server does not decode the transfer coding {coding[:100]!r}; send the body plain."
        )


def host_name(host: str) -> str:
    """'[::1]:8000' -> '::1', 'LOCALHOST:8000' -> 'localhost'."""
    host = host.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
