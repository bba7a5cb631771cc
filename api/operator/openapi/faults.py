"""The errors that an operation may answer with: a status each, with the bodies that are really sent."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel

from api.gate.auth import SEND_A_KEY
from api.gate.errors import messages_error, ollama_error, openai_error, status_of
from api.operator.openapi.described import Described
from api.schema import answers
from common.errors import OmniError

FORMS: Mapping[type[BaseModel], tuple[str, Callable[[OmniError], dict[str, Any]]]] = MappingProxyType(
    {answers.ErrorBody: ("", openai_error), answers.MessagesError: ("Messages", messages_error),
     answers.OllamaError: ("Ollama", ollama_error)}
)  # fmt: skip
RETRY_AFTER: Mapping[str, Any] = MappingProxyType(
    {"Retry-After": {"description": "Seconds until it is worth trying again", "schema": {"type": "integer"}}}
)


@dataclass(frozen=True, slots=True)
class DescribedFault:
    """An error on the wire. `says`: when, and what to do."""

    name: str
    code: str
    says: str
    message: str
    param: str | None = None

    @property
    def status(self) -> str:
        return str(status_of(self.code))

    def described(self, form: type[BaseModel]) -> dict[str, Any]:
        error = OmniError(self.message, param=self.param)
        error.code = self.code
        _, body_of = FORMS[form]
        schema = {"$ref": f"#/components/schemas/{form.__name__}"}
        found: dict[str, Any] = {
            "description": self.says,
            "content": {"application/json": {"schema": schema, "example": body_of(error)}},
        }
        return found | ({"headers": dict(RETRY_AFTER)} if self.status in ("429", "503") else {})


REFUSED = DescribedFault(
    "Refused", "invalid_request", "A field cannot be honoured: `param` names it, `message` says what may be",
    "'temperature' must be less than or equal to 2.", "temperature",
)  # fmt: skip
NO_KEY = DescribedFault(
    "NoKey", "invalid_api_key", "No key of this server: send `Authorization: Bearer KEY`",
    f"Incorrect API key provided. {SEND_A_KEY}",
)  # fmt: skip
NO_RIGHT = DescribedFault(
    "NoRight", "forbidden", "The key may not do this", "This needs an admin key (OMNI_ADMIN_KEYS)."
)  # fmt: skip
NO_MODEL = DescribedFault(
    "NoModel", "model_not_found", "No served model has this id, or it is not for this: `GET /v1/models` lists them",
    "The model 'gpt-9' does not exist; this server has deepseek-v3.2.", "model",
)  # fmt: skip
MISSING = DescribedFault(
    "Missing", "not_found", "This key has no such thing, or no longer",
    "There is no job 'chatcmpl-1' of this key; results are kept for 1 h after their end.",
)  # fmt: skip
NO_METHOD = DescribedFault(
    "NoMethod", "method_not_allowed", "Always: the operator chooses the models",
    "Models are chosen by the operator of this server (OMNI_MODEL, OMNI_MODELS); they cannot be created, copied, "
    "pushed or deleted through the API.",
)  # fmt: skip
CONFLICT = DescribedFault(
    "Conflict", "conflict", "Its state does not allow this now, or the job was cancelled",
    "The answer is still being cancelled; try again.",
)  # fmt: skip
TOO_LARGE = DescribedFault(
    "TooLarge", "body_too_large", "More bytes than a request may have", "The body is larger than 67108864 bytes."
)  # fmt: skip
NOT_JSON = DescribedFault(
    "WrongType", "unsupported_media_type", "Another Content-Type than this operation takes",
    "Send the body as JSON, with 'Content-Type: application/json'.",
)  # fmt: skip
OTHER_BODY = DescribedFault(
    "OtherBody", "idempotency_mismatch", "The Idempotency-Key was used with another body: take a new one",
    "This Idempotency-Key was used with another request.",
)  # fmt: skip
FULL = DescribedFault(
    "Full", "rate_limit_exceeded", "The queue is full, or a limit of the key is reached: wait for `Retry-After`",
    "The queue is full (64 jobs wait).",
)  # fmt: skip
FAILED = DescribedFault(
    "Failed", "internal_error", "The job or the server failed; its log says more",
    "The server failed in an unexpected way; its log says more.",
)  # fmt: skip
UNAVAILABLE = DescribedFault(
    "Unavailable", "service_unavailable", "Redis, the store or the model is not there now: wait for `Retry-After`",
    "Model not ready",
)  # fmt: skip
LATE = DescribedFault(
    "Late", "timeout", "`timeout` passed before the answer was complete",
    "The request was not done within its timeout of 30 s.",
)  # fmt: skip
NO_ROOM = DescribedFault(
    "NoRoom", "insufficient_storage", "The key keeps as many bytes as it may: delete files",
    "The files of this key would take 12884901888 bytes, of 10737418240 that a key may keep: delete files that are "
    "not needed.",
)  # fmt: skip
ALL = (
    REFUSED, NO_KEY, NO_RIGHT, NO_MODEL, MISSING, NO_METHOD, CONFLICT, TOO_LARGE, NOT_JSON, OTHER_BODY, FULL, FAILED,
    UNAVAILABLE, LATE, NO_ROOM,
)  # fmt: skip


def faults_of(method: str, path: str, described: Described) -> Iterator[DescribedFault]:
    """In the order of their statuses."""
    has_body = described.body is not None
    takes_model = described.body is not None and "model" in described.body.model_fields
    if described.is_open:
        return
    yield REFUSED
    yield NO_KEY
    if described.needs_admin or path.startswith(("/v1/usage", "/v1/organization")):
        yield NO_RIGHT
    if takes_model:
        yield NO_MODEL
    elif "{" in path or "/usage" in path:
        yield MISSING
    if described.is_refused:
        yield NO_METHOD
    if described.makes_jobs or ("{" in path and method != "GET") or described.is_resumable:
        yield CONFLICT
    if has_body:
        yield TOO_LARGE
        yield NOT_JSON
    if described.makes_jobs:
        yield OTHER_BODY
    if has_body:
        yield FULL
    yield FAILED
    yield UNAVAILABLE
    if described.makes_jobs or described.is_resumable:
        yield LATE
    if described.stores:
        yield NO_ROOM


def component(fault: DescribedFault, form: type[BaseModel]) -> str:
    return f"{FORMS[form][0]}{fault.name}"


def components() -> dict[str, Any]:
    """The responses that operations refer to."""
    return {component(fault, form): fault.described(form) for form in FORMS for fault in ALL}
