"""CORS by flask-cors: which origins' pages may read our answers (OMNI_CORS_ORIGINS). Preflights need no key.

An origin without a port stands for all its ports, `*` for every http(s) origin. There are no cookies, so credentials
are never allowed. flask-cors adds `Vary: Origin` to granted answers only; a shared cache needs it on all of them.
"""

import re

from flask import Flask, Response, request
from flask_cors import CORS

from common.settings import Settings

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
EXPOSED = (
    "Omni-Job-Id",
    "Omni-Queue-Position",
    "Omni-Queue-ETA",
    "X-Request-Id",
    "Retry-After",
    "x-should-retry",
) + tuple(f"x-ratelimit-{what}-{unit}" for unit in ("requests", "tokens") for what in ("limit", "remaining", "reset"))
PREFLIGHT_S = 600
HAS_PORT = re.compile(r":\d+\Z")
PORT = r"(:[1-9]\d{0,4})?"
ANY_HOST = r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])" + PORT


def install_cors(app: Flask, settings: Settings) -> None:
    origins = [origin_pattern(origin) for origin in settings.server.cors_origins]
    if not origins:
        return
    CORS(
        app,
        origins=origins,
        methods=METHODS,
        expose_headers=EXPOSED,
        max_age=PREFLIGHT_S,
        allow_private_network=True,
        always_send=False,
        vary_header=False,
        intercept_exceptions=False,  # every error has a handler, whose answer passes here too
    )

    @app.before_request
    def preflight() -> Response | None:
        """Granted for any route, or a page could not read the 404 of one that does not exist."""
        is_preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        return Response(status=204) if is_preflight else None

    @app.after_request
    def vary(response: Response) -> Response:
        response.vary.add("Origin")
        return response


def origin_pattern(origin: str) -> re.Pattern[str]:
    """The pattern of the Origin headers that an entry of OMNI_CORS_ORIGINS grants."""
    origin = origin.rstrip("/")
    pattern = ANY_HOST if origin == "*" else re.escape(origin) + ("" if HAS_PORT.search(origin) else PORT)
    return re.compile(rf"{pattern}\Z", re.IGNORECASE)
