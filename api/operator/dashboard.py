"""rq-dashboard, secured: password, read-only, JSON only, a strict CSP, templates that escape their values."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, abort, g, request
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, TimeoutError
from redis.retry import Retry
from rq.exceptions import NoSuchJobError
from werkzeug.exceptions import HTTPException

from api.operator.rq_dashboard_seams import install_rq_dashboard, refuse_pickle
from common.settings import Settings

USER = "omni"
REGISTRIES = frozenset({"queued", "scheduled", "deferred", "started", "finished", "failed", "canceled"})
MAX_PER_PAGE = 200  # as on rq-dashboard's page; its data route has no limit

# rq-dashboard's underscore templates are compiled with Function: hence 'unsafe-eval'. Scripts run only from our own
# files or inline with the nonce, so injected markup cannot run any.
CSP = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}' 'unsafe-eval'; "
    "style-src 'self'; style-src-attr 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }
)


def create_dashboard(settings: Settings) -> Flask:
    """The dashboard as a WSGI application of its own. It starts without Redis and works once Redis does."""
    refuse_pickle()
    from rq_dashboard import default_settings  # only now: it reads rq.serializers when it is imported

    package = Path(default_settings.__file__).parent
    app = Flask("rq_dashboard_omni", static_folder=package / "static", root_path=str(package))
    app.config.from_object(default_settings)
    app.config["RQ_DASHBOARD_REDIS_URL"] = (address(settings.redis.url),)  # only for display
    app.config["RQ_DASHBOARD_DISABLE_DELETE"] = True
    app.config["MAX_CONTENT_LENGTH"] = 64 * 1024
    if not settings.server.admin_keys:  # without a password only this stops DNS rebinding
        app.config["TRUSTED_HOSTS"] = ["127.0.0.1", "localhost"]
    install_rq_dashboard(app, package, connect(settings.redis.url))
    guard(app, settings)
    answer_errors(app)
    return app


def connect(url: str) -> Redis:
    """A lazy connection with short timeouts, so that a page shows an error instead of hanging."""
    return Redis.from_url(url, socket_connect_timeout=2, socket_timeout=5, retry=Retry(NoBackoff(), 1))


def address(url: str) -> str:
    """The URL without user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def guard(app: Flask, settings: Settings) -> None:
    """Refuse before a view runs: a missing password, a write, values that the views cannot handle."""

    @app.before_request
    def check() -> Response | None:
        g.csp_nonce = secrets.token_urlsafe(16)
        if settings.server.admin_keys and not is_known(settings.server.admin_keys):
            return Response("Password required.", 401, {"WWW-Authenticate": 'Basic realm="dashboard", charset="UTF-8"'})
        refuse_writes()
        refuse_odd_values(request.view_args or {})
        if request.endpoint not in ("static", "rq_dashboard.static", "rq_dashboard.favicon"):
            app.redis_conn.ping()  # type: ignore[attr-defined]
        return None

    @app.context_processor
    def nonce() -> dict[str, str]:
        return {"csp_nonce": g.csp_nonce}

    @app.after_request
    def protect(response: Response) -> Response:
        response.headers.update(HEADERS)
        response.headers["Content-Security-Policy"] = CSP.format(nonce=g.get("csp_nonce", ""))
        return response


def is_known(passwords: tuple[str, ...]) -> bool:
    """True for the user with one of the passwords. All are compared, in constant time."""
    given = request.authorization
    user = (given.username if given else None) or ""
    word = (given.password if given else None) or ""
    matches = [same(word, password) for password in passwords]
    return same(user, USER) & any(matches)


def same(one: str, other: str) -> bool:
    digests = [hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (one, other)]
    return hmac.compare_digest(*digests)


def refuse_writes() -> None:
    """Refuse routes that accept POST: they change something, also when called with GET (`/requeue/<queue>`)."""
    methods = (request.url_rule.methods if request.url_rule else None) or set()
    if "POST" in methods and request.method != "OPTIONS":
        abort(405, "The dashboard is read-only; cancel jobs with `omni cancel` or on the board.")


def refuse_odd_values(values: dict[str, Any]) -> None:
    """Answer 404 to values for which rq-dashboard fails with a 500, or opens another connection."""
    per_page, page = str(values.get("per_page", "1")), str(values.get("page", "1"))
    if (
        values.get("instance_number", 0) != 0
        or values.get("registry_name", "queued") not in REGISTRIES
        or values.get("order", "asc") not in ("asc", "dsc")
        or not all(re.fullmatch("[1-9][0-9]{0,5}", number, re.ASCII) for number in (per_page, page))
        or int(per_page) > MAX_PER_PAGE
    ):
        abort(404)


def answer_errors(app: Flask) -> None:
    """Errors are plain sentences, not HTML pages or tracebacks."""

    @app.errorhandler(ConnectionError)
    @app.errorhandler(TimeoutError)
    def no_redis(_: Exception) -> Response:
        headers = {"Refresh": "3", "Retry-After": "3"}  # the page reloads by itself
        return Response("Redis does not answer; trying again.", 503, headers, mimetype="text/plain")

    @app.errorhandler(NoSuchJobError)
    def no_job(_: NoSuchJobError) -> Response:
        return Response("No such job; it may have expired.", 404, mimetype="text/plain")

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        return Response(error.description, error.code, mimetype="text/plain")
