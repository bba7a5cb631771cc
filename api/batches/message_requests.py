"""The body of POST /v1/messages/batches -> the lines of a batch's file, as the body arrives.

Of 200 MB no more than one request and one block are in memory.
"""

import hashlib
import re
from typing import Any

import orjson

from api.batches.json_split import Splitter, Steps
from api.gate.body import MAX_BODY_BYTES
from api.gate.json_object import parse_object
from common.errors import InvalidRequest

MAX_REQUESTS = 50_000
CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
ENDPOINT = "/v1/messages"
HEAD = b'{"custom_id":%b,"method":"POST","url":"/v1/messages","body":'
BOM = b"\xef\xbb\xbf"


class MessageRequests:
    """feed() returns the lines of the requests that have ended. Raises InvalidRequest that names the request."""

    def __init__(self) -> None:
        self.num_requests = 0
        self.model = ""  # of the first request
        self._digest = hashlib.sha256()
        self._splitter = Splitter(MAX_BODY_BYTES)
        self._lines: list[bytes] = []
        self._custom_ids: set[str] = set()
        self._has_requests = False
        self._is_whole = False
        self._steps = self._body()
        self._is_first = True

    def feed(self, block: bytes) -> bytes:
        if self._is_first:
            block, self._is_first = block.removeprefix(BOM), False
        self._splitter.add(block)
        next(self._steps)
        lines = b"".join(self._lines)
        self._lines.clear()
        self._digest.update(lines)
        return lines

    def end(self) -> str:
        """The digest of all lines. Raises InvalidRequest for a body that has not ended, or has no requests."""
        if not self._is_whole:
            raise InvalidRequest("The body is not valid JSON: it ends too early.")
        if not self.num_requests:
            raise InvalidRequest("'requests': must hold at least one request.", param="requests")
        return self._digest.hexdigest()

    def _body(self) -> Steps:
        splitter = self._splitter
        yield from splitter.expect(b"{")
        if (yield from splitter.next_mark()) == ord("}"):
            yield from splitter.expect(b"}")
        else:
            separator = ord(",")
            while separator == ord(","):
                name = yield from self._name()
                if name == "requests":
                    yield from self._requests()
                else:
                    yield from splitter.value()  # such as `betas`: without an effect here
                separator = yield from splitter.expect(b",}")
        self._is_whole = True
        yield from splitter.end()

    def _requests(self) -> Steps:
        if self._has_requests:
            raise InvalidRequest("The name 'requests' stands twice in one object.", param="requests")
        self._has_requests = True
        splitter = self._splitter
        if (yield from splitter.next_mark()) != ord("["):
            raise InvalidRequest("'requests': must be a list.", param="requests")
        yield from splitter.expect(b"[")
        if (yield from splitter.next_mark()) == ord("]"):
            yield from splitter.expect(b"]")
            return
        separator = ord(",")
        while separator == ord(","):
            yield from self._request()
            separator = yield from splitter.expect(b",]")

    def _request(self) -> Steps:
        """One element of `requests`: its fields as they were sent, checked as far as the line's own check does not."""
        if self.num_requests == MAX_REQUESTS:
            raise InvalidRequest(f"'requests': a batch may have {MAX_REQUESTS} requests.", param="requests")
        splitter = self._splitter
        if (yield from splitter.next_mark()) != ord("{"):
            raise self._refused("", "must be an object with 'custom_id' and 'params'")
        yield from splitter.expect(b"{")
        fields: dict[str, bytes] = {}
        separator = ord(",")
        while separator == ord(","):
            name = yield from self._name()
            if name in fields or name not in ("custom_id", "params"):
                why = "stands twice in one object" if name in fields else "is not a field of a request"
                raise self._refused(f".{name[:64]}", why)
            yield from splitter.value()
            fields[name] = splitter.taken
            separator = yield from splitter.expect(b",}")
        self._take(fields)

    def _name(self) -> Any:
        """A generator that returns a field's name, with the colon behind it."""
        splitter = self._splitter
        if (yield from splitter.next_mark()) != ord('"'):
            raise InvalidRequest("The body is not valid JSON: a field's name is expected.")
        yield from splitter.value()
        name = _parsed(splitter.taken)
        yield from splitter.expect(b":")
        return name

    def _take(self, fields: dict[str, bytes]) -> None:
        custom_id = _parsed(fields.get("custom_id", b"null"))
        if not isinstance(custom_id, str) or not CUSTOM_ID.fullmatch(custom_id):
            raise self._refused(".custom_id", f"must match '^{CUSTOM_ID.pattern}$'")
        if custom_id in self._custom_ids:
            raise self._refused(".custom_id", f"{custom_id!r} is another request's too")
        try:
            params = parse_object(fields.get("params", b"null"))
        except InvalidRequest as refused:
            raise self._refused(".params", refused.message.rstrip(".").replace("The body", "it", 1)) from None
        if params.get("stream"):
            raise self._refused(".params.stream", "must not be true: a batch's answers are whole")
        if not isinstance(params.get("model"), str) or not params["model"]:
            raise self._refused(".params.model", "must be the id of a model")
        self.model = self.model or params["model"][:256]
        self._custom_ids.add(custom_id)
        self.num_requests += 1
        body = fields["params"].replace(b"\r", b" ").replace(b"\n", b" ")  # blanks: a text has none
        self._lines.append(b"%b%b}\n" % (HEAD % orjson.dumps(custom_id), body))

    def _refused(self, field: str, why: str) -> InvalidRequest:
        place = f"requests[{self.num_requests}]{field}"
        return InvalidRequest(f"'{place}': {why}.", param=place)


def _parsed(raw: bytes) -> Any:
    """Raises InvalidRequest."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None
