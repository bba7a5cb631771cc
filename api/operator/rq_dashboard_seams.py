"""rq-dashboard's and RQ's private parts that the dashboard changes. Re-check them when either is upgraded.

- Text patches of rq-dashboard's templates, each with its reason in PATCHES. A text that is gone stops the page.
- `before_request_funcs`: rq-dashboard's hook opens a new connection pool on every request. Check: it is the only hook.
- `app.redis_conn`: the attribute that its views read.
- `rq.serializers`: RQ and rq-dashboard fall back to pickle in several places. Check: the names that they fall back to.

tests/test_seams.py touches each entry; tests/api/operator/test_dashboard.py shows the pages.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import rq.serializers
from flask import Flask
from jinja2 import BaseLoader, Environment
from redis import Redis


@dataclass(frozen=True, slots=True)
class Patch:
    """A text in a template of rq-dashboard 0.9.0, its replacement, and the reason."""

    template: str
    old: str
    new: str
    reason: str


NO_SCRIPT = "no inline script runs without the nonce"
ESCAPED_ONCE = "EscapingLoader escapes it already"
READ_ONLY = "a read-only page does not offer writes"
PATCHES = (
    Patch("base.html", '<script type="text/javascript">', '<script nonce="{{ csp_nonce }}">', NO_SCRIPT),
    Patch("jobs.html", "$('<div/>').text(d.description).html()", "d.description", ESCAPED_ONCE),
    Patch("jobs.html", "$('<div/>').text(d.exc_info).html()", "d.exc_info", ESCAPED_ONCE),
    Patch("jobs.html", "{% if registry_name == 'queued' %}\n        <a", "{% if false %}<a", READ_ONLY),
    Patch("jobs.html", "{% if registry_name == 'failed' %}\n        <a", "{% if false %}<a", READ_ONLY),
    Patch("jobs.html", "<% if (d.exc_info) { %>\n                <a", "<% if (false) { %><a", READ_ONLY),
    Patch("scripts/job.js", 'if (job.status === "failed")', "if (false)", READ_ONLY),
    Patch("scripts/jobs.js", "'{{ queue.name }}'", "{{ queue.name|tojson|safe }}", "a name may contain quotes"),
    Patch(
        "scripts/job.js",
        "if (err) {\n                return;",
        "if (err) {\n                return done();",
        "the page would stop refreshing after one error",
    ),
)


class EscapingLoader(BaseLoader):
    """The installed templates, patched, with underscore's raw `<%= %>` turned into the escaped `<%- %>`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get_source(self, environment: Environment, template: str) -> tuple[str, str | None, Callable[[], bool] | None]:
        path = self.folder / template
        source = path.read_text(encoding="utf-8")
        for patch in PATCHES:
            if template == f"rq_dashboard/{patch.template}":
                if patch.old not in source:
                    raise RuntimeError(f"{template} is not the one that {__name__} was written for: {patch.old!r}")
                source = source.replace(patch.old, patch.new)
        return source.replace("<%=", "<%-"), str(path), None


def install_rq_dashboard(app: Flask, package: Path, redis: Redis) -> None:
    """Serve rq-dashboard's pages with this connection. Call refuse_pickle() before rq_dashboard is imported."""
    from rq_dashboard import web

    app.jinja_options = {"loader": EscapingLoader(package / "templates")}
    app.redis_conn = redis  # type: ignore[attr-defined]
    app.register_blueprint(web.blueprint)
    app.before_request_funcs.pop("rq_dashboard")


def refuse_pickle() -> None:
    """Make JSON the serializer that RQ and rq-dashboard fall back to in this process."""
    json = rq.serializers.JSONSerializer
    rq.serializers.DefaultSerializer = rq.serializers.PickleSerializer = json
    rq.serializers.SERIALIZER_ALIASES["pickle"] = json
