"""One attempt: a POST to a checked address, within a time limit, without redirects, with a bounded answer."""

import http.client
import logging
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import AddressRefused
from common.webhooks.addresses import AddressRules, Target

logger = logging.getLogger("omni.webhooks")

TIMEOUT_S = 15.0  # from the first connection to the answer's head
BODY_S = 0.5  # for the answer's body, of which nothing depends
MAX_ADDRESSES = 3  # of one host that are tried
MAX_ANSWER = 16 * 1024  # bytes that are read of an answer's body, so that its sender sees no reset
GONE = 410


@dataclass(frozen=True, slots=True)
class SendResult:
    """`status_code`: None without an answer; `error`: empty after a success."""

    status_code: int | None
    error: str
    seconds: float

    @property
    def is_success(self) -> bool:
        return not self.error


class Deadline:
    """Shuts a socket down when the time is over, whatever its thread waits for."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        self._timer.start()

    @property
    def left_s(self) -> float:
        return max(self._ends - time.monotonic(), 0.001)

    @property
    def has_passed(self) -> bool:
        return time.monotonic() >= self._ends

    def watch(self, connected: socket.socket) -> None:
        self._socket = connected

    def end(self) -> None:
        self._timer.cancel()
        self._socket = None

    def _cut(self) -> None:
        if (connected := self._socket) is not None:
            try:
                connected.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it is closed


def send(
    url: str, body: bytes, headers: Mapping[str, str], rules: AddressRules, timeout_s: float = TIMEOUT_S
) -> SendResult:
    """Raises nothing: whatever goes wrong is the outcome."""
    began = time.monotonic()
    try:
        target = rules.target(url)
    except AddressRefused as refused:
        return SendResult(None, refused.message, time.monotonic() - began)
    deadline = Deadline(timeout_s)
    try:
        status = _post(target, body, headers, deadline)
        return SendResult(status, _fault(status), time.monotonic() - began)
    except (OSError, http.client.HTTPException) as error:
        text = f"no answer within {timeout_s:g} s" if deadline.has_passed else _words(error)
        return SendResult(None, text, time.monotonic() - began)
    finally:
        deadline.end()


def _post(target: Target, body: bytes, headers: Mapping[str, str], deadline: Deadline) -> int:
    connected = _connect(target, deadline)
    connection = http.client.HTTPConnection(target.host, target.port)
    connection.sock = connected
    try:
        connection.putrequest("POST", target.path, skip_host=True, skip_accept_encoding=True)
        fixed = {
            "Host": target.host_header,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "User-Agent": "Protocol-OMNI",
            "Connection": "close",
        }
        for name, value in {**fixed, **headers}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        _read_body(answer, connected)
        return answer.status
    finally:
        connected.close()


def _read_body(answer: http.client.HTTPResponse, connected: socket.socket) -> None:
    """As much as comes at once: the status has decided."""
    deadline = Deadline(BODY_S)
    deadline.watch(connected)
    try:
        answer.read(MAX_ANSWER)
    except (OSError, http.client.HTTPException) as error:
        logger.debug("the answer's body was cut off: %s", error)
    finally:
        deadline.end()


def _connect(target: Target, deadline: Deadline) -> socket.socket:
    """A connection to one of the checked addresses; TLS is checked against the host's name."""
    for number, address in enumerate(target.addresses[:MAX_ADDRESSES], 1):
        try:
            connected = socket.create_connection((str(address), target.port), timeout=deadline.left_s)
            break
        except OSError:
            if number == len(target.addresses[:MAX_ADDRESSES]) or deadline.has_passed:
                raise
    deadline.watch(connected)
    if not target.is_tls:
        return connected
    try:
        context = ssl.create_default_context()
        wrapped = context.wrap_socket(connected, server_hostname=target.host, do_handshake_on_connect=False)
    except BaseException:
        connected.close()
        raise
    deadline.watch(wrapped)
    try:
        wrapped.do_handshake()
    except BaseException:
        wrapped.close()
        raise
    return wrapped


def _fault(status: int) -> str:
    if 200 <= status < 300:
        return ""
    if 300 <= status < 400:
        return f"HTTP {status}: redirects are not followed"
    return f"HTTP {status}"


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or 'failed'}"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the connection was closed without an answer"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return type(error).__name__
