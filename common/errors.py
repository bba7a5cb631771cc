"""Every failure with a name, one tree. Each class is one code; api/gate/errors.py gives each code its status.

OmniError                         500 internal_error
├── InvalidRequest                400 invalid_request
│   ├── ContextLengthExceeded     400 context_length_exceeded
│   ├── AddressRefused            400 invalid_request: where a webhook may not go
│   ├── PreviousResponseNotFound  400 previous_response_not_found
│   └── BodyTooLarge              413 body_too_large
├── Unauthenticated               401 invalid_api_key
├── Forbidden                     403 forbidden
├── NotFound                      404 not_found
│   └── ModelNotFound             404 model_not_found
├── MethodNotAllowed              405 method_not_allowed
├── RequestTimeout                408 request_timeout
├── Conflict                      409 conflict
│   ├── StreamRewound             409 stream_rewound
│   └── ConversationLocked        409 conversation_locked
├── UnsupportedMediaType          415 unsupported_media_type
├── MisdirectedRequest            421 misdirected_request
├── IdempotencyMismatch           422 idempotency_mismatch
├── Overloaded                    429 rate_limit_exceeded
│   ├── KeyLimited                429 rate_limit_exceeded: a limit of the caller's own key
│   └── WindowTooShort            429 window_cannot_be_kept
├── UnsupportedCoding             501 not_implemented
├── Unavailable                   503 service_unavailable: Redis away, memory or disk full, no worker
│   ├── ModelNotReady             503 service_unavailable: the worker is still loading
│   └── Restarting                503 server_restarting: this process is being replaced; others serve
├── JobFailed                     500 internal_error, or the code that the worker gave the job
│   ├── JobCancelled              409 cancelled
│   ├── ReaderGone                409 client_gone
│   ├── DeadlinePassed            504 timeout
│   ├── ModelChanged              409 model_changed
│   ├── AdapterUnloaded           409 adapter_unloaded
│   ├── WorkerCrashed             500 worker_crashed
│   ├── OutOfMemory               500 out_of_memory
│   ├── ModelLoadFailed           500 model_load_failed
│   ├── ResumeMismatch            500 resume_mismatch
│   ├── GrammarFailed             500 grammar_failed
│   └── BackendError              500 backend_error
├── StorageFull                   507 insufficient_storage
└── WireError                     500 wire_error: bytes in Redis that are not ours
"""

from common.quota import Quota


class OmniError(Exception):
    """A failure with a name. `code` travels on the wire; api/gate/errors.py gives it a status."""

    code: str = "internal_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(OmniError):
    """The request cannot be honoured as sent; `param` names the field."""

    code = "invalid_request"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and answer do not fit the model's context. `num_tokens` and `most` are 0 where they are not known."""

    code = "context_length_exceeded"

    def __init__(self, message: str, *, param: str | None = None, num_tokens: int = 0, most: int = 0) -> None:
        super().__init__(message, param=param)
        self.num_tokens, self.most = num_tokens, most


class AddressRefused(InvalidRequest):
    """A webhook's URL that is not allowed, or whose host cannot be resolved; the message says which."""


class PreviousResponseNotFound(InvalidRequest):
    """`previous_response_id` names no stored response of this key."""

    code = "previous_response_not_found"


class BodyTooLarge(InvalidRequest):
    """More bytes than a request may have."""

    code = "body_too_large"


class Unauthenticated(OmniError):
    """No API key, or an unknown one."""

    code = "invalid_api_key"


class Forbidden(OmniError):
    """A known API key without the right to this."""

    code = "forbidden"


class NotFound(OmniError):
    """No such thing for this key."""

    code = "not_found"


class ModelNotFound(NotFound):
    """No served model has this id."""

    code = "model_not_found"


class MethodNotAllowed(OmniError):
    """The route does not take this HTTP method."""

    code = "method_not_allowed"


class RequestTimeout(OmniError):
    """The body did not arrive in time."""

    code = "request_timeout"


class Conflict(OmniError):
    """The job is not in a state that allows this."""

    code = "conflict"


class StreamRewound(Conflict):
    """The job has fewer events than the client says it has seen, or than this stream has sent."""

    code = "stream_rewound"


class ConversationLocked(Conflict):
    """A response of the conversation has not ended."""

    code = "conversation_locked"


class UnsupportedMediaType(OmniError):
    """The body is not JSON."""

    code = "unsupported_media_type"


class MisdirectedRequest(OmniError):
    """The Host header names another server."""

    code = "misdirected_request"


class IdempotencyMismatch(OmniError):
    """An Idempotency-Key came back with another body."""

    code = "idempotency_mismatch"


class Overloaded(OmniError):
    """The queue is full. `retry_after_s` is when a place is likely."""

    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: int = 1, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s


class KeyLimited(Overloaded):
    """A limit of the caller's own key is reached; `param` names it."""

    def __init__(self, message: str, *, limit: str, retry_after_s: int, quota: Quota) -> None:
        super().__init__(message, retry_after_s=retry_after_s, param=limit)
        self.quota = quota


class WindowTooShort(Overloaded):
    """A background request cannot end by its deadline, as far as the measured rate says."""

    code = "window_cannot_be_kept"


class UnsupportedCoding(OmniError):
    """The body has a transfer coding other than `chunked`."""

    code = "not_implemented"


class Unavailable(OmniError):
    """Nothing can be accepted now; try again in `retry_after_s`."""

    code = "service_unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 2) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelNotReady(Unavailable):
    """The worker has not finished loading its model."""


class Restarting(Unavailable):
    """This process is being replaced; another one answers a repeated request, and the job goes on."""

    code = "server_restarting"

    def __init__(self, message: str) -> None:
        super().__init__(message, retry_after_s=1)


class JobFailed(OmniError):
    """The job ended without an answer. `code` is given where it was read from the job; a subclass has its own."""

    code = "internal_error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.code


class JobCancelled(JobFailed):
    """A client or an operator cancelled the job."""

    code = "cancelled"


class ReaderGone(JobFailed):
    """The caller disconnected, or no reader was left."""

    code = "client_gone"


class DeadlinePassed(JobFailed):
    """The job was not finished by its deadline."""

    code = "timeout"


class ModelChanged(JobFailed):
    """The worker has other weights than those the job was accepted for."""

    code = "model_changed"


class AdapterUnloaded(JobFailed):
    """The adapter that the job was accepted for is not loaded any more."""

    code = "adapter_unloaded"


class WorkerCrashed(JobFailed):
    """The job killed its worker twice while it ran alone."""

    code = "worker_crashed"


class OutOfMemory(JobFailed):
    """The job did not fit on the device."""

    code = "out_of_memory"


class ModelLoadFailed(JobFailed):
    """The model of the table that the job is for cannot be loaded; the message says why."""

    code = "model_load_failed"


class ResumeMismatch(JobFailed):
    """The logged tokens decode to another text here, so another model wrote them."""

    code = "resume_mismatch"


class GrammarFailed(JobFailed):
    """The grammar allowed no further token, or became too complex."""

    code = "grammar_failed"


class BackendError(JobFailed):
    """The engine behind this service sent an unusable response."""

    code = "backend_error"


class StorageFull(OmniError):
    """The disk, or the key's share of it, has no room for a file."""

    code = "insufficient_storage"


class WireError(OmniError):
    """Bytes that are not one of our messages."""

    code = "wire_error"
