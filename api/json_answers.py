"""JSON bodies of answers, by orjson: ten times as fast as Python's own, and in a thread where they are large."""

import json
from typing import Any

import orjson
from flask import Flask, Response
from flask.json.provider import JSONProvider

from api.aside import aside


class FastJson(JSONProvider):
    """Flask's `jsonify` and the dictionaries that routes return go through it."""

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        return dumped(obj).decode()

    def loads(self, s: str | bytes, **kwargs: Any) -> Any:
        return orjson.loads(s)

    def response(self, *args: Any, **kwargs: Any) -> Response:
        body = aside(dumped, self._prepare_response_obj(args, kwargs))
        return Response(body + b"\n", mimetype="application/json")


def dumped(value: Any) -> bytes:
    """A schema that is sent back may hold whole numbers of more than 64 bits, which orjson does not write."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def install_json(app: Flask) -> None:
    app.json = FastJson(app)
