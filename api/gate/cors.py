"""Which pages of other origins may read our answers (OMNI_CORS_ORIGINS), preflight included.

An origin without a port stands for all its ports; `*` for every origin. No cookies are used, so none are allowed.
"""

from urllib.parse import urlsplit

from flask import Flask, Response, request

from common.settings import Settings, split

METHODS = "GET, POST, PUT, PATCH, DELETE, OPTIONS"
RATES = ", ".join(
    f"x-ratelimit-{what}-{unit}" for unit in ("requests", "tokens") for what in ("limit", "remaining", "reset")
)
EXPOSED = f"Omni-Job-Id, X-Request-Id, Retry-After, x-should-retry, {RATES}"
PREFLIGHT_S = "600"


def install_cors(app: Flask, settings: Settings) -> None:
    """Answers preflights before anybody asks for a key: browsers send none with them."""
    allowed = frozenset(origin.rstrip("/").lower() for origin in split(settings.cors_origins))

    @app.before_request
    def preflight() -> Response | None:
        if request.method != "OPTIONS" or "Access-Control-Request-Method" not in request.headers:
            return None
        return Response(status=204)

    @app.after_request
    def grant(response: Response) -> Response:
        origin = request.headers.get("Origin", "")
        if allowed:
            response.vary.add("Origin")
        if not is_allowed(origin, allowed):
            return response
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = EXPOSED
        if "Access-Control-Request-Method" in request.headers:
            response.headers["Access-Control-Allow-Methods"] = METHODS
            asked = request.headers.get("Access-Control-Request-Headers", "authorization, content-type")
            response.headers["Access-Control-Allow-Headers"] = asked
            response.headers["Access-Control-Max-Age"] = PREFLIGHT_S
            if request.headers.get("Access-Control-Request-Private-Network") == "true":
                response.headers["Access-Control-Allow-Private-Network"] = "true"
        return response


def is_allowed(origin: str, allowed: frozenset[str]) -> bool:
    """Browsers name an origin exactly as scheme://host[:port]; 'null' and anything else is nobody."""
    origin = origin.lower()
    try:
        parts = urlsplit(origin)
        is_origin = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    if not is_origin or origin != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc:
        return False
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return "*" in allowed or origin in allowed or f"{parts.scheme}://{host}" in allowed
