"""The pages and their parts: static files, served without a key. Their requests need one."""

from pathlib import Path

from flask import Blueprint, Response, send_from_directory

STATIC = Path(__file__).parents[1] / "static"


def page_routes() -> Blueprint:
    routes = Blueprint("pages", __name__)

    @routes.get("/")
    def index() -> Response:
        return send_from_directory(STATIC, "index.html")

    @routes.get("/board")
    def board() -> Response:
        return send_from_directory(STATIC, "board.html")

    @routes.get("/batches")
    def batches() -> Response:
        return send_from_directory(STATIC, "batches.html")

    @routes.get("/docs")
    def reference() -> Response:
        return send_from_directory(STATIC, "reference.html")

    @routes.get("/static/<path:name>")
    def static(name: str) -> Response:
        return send_from_directory(STATIC, name)

    return routes
