"""One span per POST. Its traceparent is stored with the job, so that the worker's spans nest under it."""

from flask import Flask, Response, g, has_request_context, request

from common.settings import Settings
from common.tracing import traces_of


def traceparent() -> str:
    """The current request's traceparent; empty when tracing is off."""
    return str(g.get("traceparent", "")) if has_request_context() else ""


def install_traces(app: Flask, settings: Settings) -> None:
    traces = traces_of(settings, "api")
    if traces is None:
        return

    @app.before_request
    def begin() -> None:
        if request.method == "POST":
            route = request.url_rule.rule if request.url_rule is not None else "none"
            attributes = {"http.request.method": request.method, "http.route": route, "omni.request_id": g.request_id}
            name = f"{request.method} {route}"
            g.span, g.traceparent = traces.begin(name, request.headers.get("traceparent", ""), attributes)

    @app.after_request
    def end(response: Response) -> Response:
        if span := g.get("span"):
            span.set_attribute("http.response.status_code", response.status_code)
            if g.get("job_id"):
                span.set_attribute("omni.job_id", g.job_id)
            response.call_on_close(span.end)
        return response
