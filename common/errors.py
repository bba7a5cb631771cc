"""Every failure with a name, one tree.

OmniError
├── InvalidRequest            400
│   ├── ContextLengthExceeded 400
│   └── BodyTooLarge          413
├── Unauthenticated           401
├── NotFound                  404
│   └── ModelNotFound         404
├── Conflict                  409
├── IdempotencyMismatch       422
├── Overloaded                429
│   └── KeyLimited            429   a limit of the caller's own key
├── Unavailable               503   nothing can be taken now (Redis away, memory or disk full, no worker)
│   ├── ModelNotReady         503   the worker is still loading
│   └── Restarting            503   this process is leaving; others serve
├── JobFailed                 500   the code is the one that the worker gave the job
└── WireError                 500   bytes in Redis that are not ours
"""

from common.quota import Quota


class OmniError(Exception):
    """A failure with a name. `code` travels on the wire; api/gate/errors.py gives it a status."""

    code: str = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class InvalidRequest(OmniError):
    """The request cannot be honoured as it was sent; `param` names the field."""

    code = "invalid_request"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and answer do not fit the model's context."""

    code = "context_length_exceeded"


class BodyTooLarge(InvalidRequest):
    """More bytes than a request may have."""

    code = "body_too_large"


class Unauthenticated(OmniError):
    """No API key, or one that is not known."""

    code = "invalid_api_key"


class NotFound(OmniError):
    """No such thing for this key."""

    code = "not_found"


class ModelNotFound(NotFound):
    """No served model has this id."""

    code = "model_not_found"


class Conflict(OmniError):
    """The job is not in a state that allows this."""

    code = "conflict"


class IdempotencyMismatch(OmniError):
    """An Idempotency-Key came back with another body."""

    code = "idempotency_mismatch"


class Overloaded(OmniError):
    """The waiting line is full. `retry_after_s` says when a place is likely."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: int = 1, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s


class KeyLimited(Overloaded):
    """A limit of the caller's own key is reached; `param` names it."""

    def __init__(self, message: str, *, limit: str, retry_after_s: int, quota: Quota) -> None:
        super().__init__(message, retry_after_s=retry_after_s, param=limit)
        self.quota = quota


class Unavailable(OmniError):
    """Nothing can be accepted now; try again in `retry_after_s`."""

    code = "service_unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 2) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelNotReady(Unavailable):
    """The worker has not finished loading its model."""


class Restarting(Unavailable):
    """This process is leaving; another one answers a repeated request, and the job goes on."""

    code = "server_restarting"

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after_s=1)


class JobFailed(OmniError):
    """The job ended without an answer; `code` is the worker's."""

    code = "internal_error"


class WireError(OmniError):
    """Bytes that are not one of our messages."""

    code = "wire_error"
