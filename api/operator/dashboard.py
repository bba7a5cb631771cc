"""rq-dashboard behind a door: password, read-only, JSON only, a strict CSP, templates that escape what they print."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import rq.serializers
from flask import Flask, Response, abort, g, request
from jinja2 import BaseLoader, Environment
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, TimeoutError
from redis.retry import Retry
from rq.exceptions import NoSuchJobError
from werkzeug.exceptions import HTTPException

from common.settings import Settings

USER = "omni"
REGISTRIES = frozenset({"queued", "scheduled", "deferred", "started", "finished", "failed", "canceled"})
MAX_PER_PAGE = 200  # the page's own limit; the data route has none

# rq-dashboard's templates run in underscore, which compiles them with Function: hence 'unsafe-eval'. No inline
# script runs without the nonce, so markup that got in could still do nothing.
CSP = (
    "default-src 'none'; script-src 'nonce-{nonce}' 'unsafe-eval'; style-src 'self'; style-src-attr 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

# (template, what rq-dashboard 0.9.0 has, what it should have). A source that no longer matches stops the page.
PATCHES = (
    ("base.html", '<script src="', '<script nonce="{{ csp_nonce }}" src="'),
    ("base.html", '<script type="text/javascript">', '<script nonce="{{ csp_nonce }}">'),
    ("jobs.html", "<%= $('<div/>').text(d.description).html() %>", "<%= d.description %>"),
    ("jobs.html", "<%= $('<div/>').text(d.exc_info).html() %>", "<%= d.exc_info %>"),
    (
        "jobs.html",
        "{% if registry_name == 'queued' %}\n        <a",
        "{% if enable_delete and registry_name == 'queued' %}<a",
    ),
    (
        "jobs.html",
        "{% if registry_name == 'failed' %}\n        <a",
        "{% if enable_delete and registry_name == 'failed' %}<a",
    ),
    (
        "jobs.html",
        "<% if (d.exc_info) { %>\n                <a",
        "<% if ({{ enable_delete|tojson }} && d.exc_info) { %><a",
    ),
    ("scripts/jobs.js", "'{{ queue.name }}'", "{{ queue.name|tojson|safe }}"),
    ("scripts/job.js", 'if (job.status === "failed")', 'if ({{ enable_delete|tojson }} && job.status === "failed")'),
    ("scripts/job.js", "if (err) {\n                return;", "if (err) {\n                return done();"),
)


class EscapingLoader(BaseLoader):
    """The installed templates, with every `<%= %>` (raw) of underscore's turned into `<%- %>` (escaped)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get_source(self, environment: Environment, template: str) -> tuple[str, str | None, Callable[[], bool] | None]:
        path = self.folder / template
        source = path.read_text(encoding="utf-8")
        for name, old, new in PATCHES:
            if template == f"rq_dashboard/{name}":
                if old not in source:
                    raise RuntimeError(
                        f"{template} is not the one that api/operator/dashboard.py was written for: {old!r}"
                    )
                source = source.replace(old, new)
        return source.replace("<%=", "<%-"), str(path), None


def create_dashboard(settings: Settings) -> Flask:
    """The dashboard as a WSGI application of its own. It starts without Redis and works once Redis does."""
    refuse_pickle()
    from rq_dashboard import default_settings, web  # reads rq.serializers when it is imported

    package = Path(web.__file__).parent
    app = Flask("rq_dashboard_omni", static_folder=package / "static", root_path=str(package))
    app.config.from_object(default_settings)
    app.config["RQ_DASHBOARD_REDIS_URL"] = (address(settings.redis.url),)  # shown only; the connection is ours
    app.config["RQ_DASHBOARD_DISABLE_DELETE"] = True
    app.config["MAX_CONTENT_LENGTH"] = 64 * 1024
    if not settings.operator.dashboard_password:  # nothing else would stop a name that is rebound to this address
        app.config["TRUSTED_HOSTS"] = ["127.0.0.1", "localhost"]
    app.jinja_options = {"loader": EscapingLoader(package / "templates")}
    app.redis_conn = connect(settings.redis.url)  # type: ignore[attr-defined]
    app.register_blueprint(web.blueprint)
    app.before_request_funcs.pop("rq_dashboard")  # it opens a new connection pool on every request
    guard(app, settings)
    answer_errors(app)
    return app


def refuse_pickle() -> None:
    """RQ and its dashboard fall back to pickle in several places: make JSON the fallback in this process."""
    json = rq.serializers.JSONSerializer
    rq.serializers.DefaultSerializer = rq.serializers.PickleSerializer = json
    rq.serializers.SERIALIZER_ALIASES["pickle"] = json


def connect(url: str) -> Redis:
    """A lazy connection that gives up soon, so that a page says "no Redis" instead of hanging."""
    return Redis.from_url(url, socket_connect_timeout=2, socket_timeout=5, retry=Retry(NoBackoff(), 1))


def address(url: str) -> str:
    """Where Redis is, without its user, password and options."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def guard(app: Flask, settings: Settings) -> None:
    """Refuse before a view runs: no password, a foreign page's request, a write, values the views trip over."""

    @app.before_request
    def check() -> Response | None:
        g.csp_nonce = secrets.token_urlsafe(16)
        if settings.operator.dashboard_password and not is_known(settings.operator.dashboard_password):
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


def is_known(password: str) -> bool:
    """Both halves are compared, in constant time, whatever they are."""
    given = request.authorization
    user = (given.username if given else None) or ""
    word = (given.password if given else None) or ""
    return same(user, USER) & same(word, password)


def same(one: str, other: str) -> bool:
    digests = [hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest() for text in (one, other)]
    return hmac.compare_digest(*digests)


def refuse_writes() -> None:
    """A route that takes POST changes something, also by GET (`/requeue/<queue>` has both)."""
    methods = (request.url_rule.methods if request.url_rule else None) or set()
    if "POST" in methods and request.method != "OPTIONS":
        abort(405, "The dashboard is read-only; cancel jobs with `omni cancel` or on the board.")


def refuse_odd_values(values: dict[str, Any]) -> None:
    """rq-dashboard answers these with a 500, or opens a connection by index."""
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
    """Plain sentences instead of HTML pages and tracebacks."""

    @app.errorhandler(ConnectionError)
    @app.errorhandler(TimeoutError)
    def no_redis(_: Exception) -> Response:
        headers = {"Refresh": "3", "Retry-After": "3"}  # the page comes back by itself
        return Response("Redis does not answer; trying again.", 503, headers, mimetype="text/plain")

    @app.errorhandler(NoSuchJobError)
    def no_job(_: NoSuchJobError) -> Response:
        return Response("No such job; it may have expired.", 404, mimetype="text/plain")

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        return Response(error.description, error.code, mimetype="text/plain")
