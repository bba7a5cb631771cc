"""Requests and answers of /v1/webhook_endpoints: OpenAI's, and `scope`, `disabled` and deliveries, which are ours."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from api.schema.answers import Shape
from api.schema.base import Base
from common.webhooks.events import ALL_TYPES, EVENT_TYPES

MAX_NAME = 256  # characters
NO_SUCH_TYPE = f"there is no event of this type here. The types are {', '.join(EVENT_TYPES)}"


def _as_list(value: Any) -> Any:
    return [ALL_TYPES] if value == ALL_TYPES else value


def _check_type(name: str) -> str:
    if name not in EVENT_TYPES:
        raise ValueError(NO_SUCH_TYPE)
    return name


def _check_wanted(name: str) -> str:
    if name not in EVENT_TYPES and name != ALL_TYPES:
        raise ValueError(f"{NO_SUCH_TYPE}, or * for all")
    return name


EventType = Annotated[str, AfterValidator(_check_type)]
EventTypeList = Annotated[
    list[Annotated[str, AfterValidator(_check_wanted)]],
    Field(min_length=1, max_length=64),
    BeforeValidator(_as_list, json_schema_input_type=Literal["*"] | list[str]),
]
EndpointName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]


class CreateWebhookRequest(Base):
    """POST /v1/webhook_endpoints."""

    event_types: EventTypeList
    name: EndpointName
    url: str
    scope: Literal["own", "all"] = "own"
    disabled: bool | None = None


class UpdateWebhookRequest(Base):
    """POST /v1/webhook_endpoints/{id}."""

    event_types: EventTypeList | None = None
    name: EndpointName | None = None
    url: str | None = None
    scope: Literal["own", "all"] | None = None  # as it is: it cannot be changed
    disabled: bool | None = None


class RotateSecretRequest(Base):
    """POST /v1/webhook_endpoints/{id}/rotate_secret."""

    keep_old_secret_active_for_24_hours: bool | None = None


class TestWebhookRequest(Base):
    """POST /v1/webhook_endpoints/{id}/test."""

    event_type: EventType = EVENT_TYPES[0]


class WebhookEndpointAnswer(Shape):
    id: str
    object: Literal["webhook_endpoint"]
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[str]
    signing_secret_hint: str
    scope: Literal["own", "all"]
    disabled: bool
    disabled_reason: str | None
    failing_since: int | None


class WebhookSecretAnswer(WebhookEndpointAnswer):
    signing_secret: str


class WebhookEndpointList(Shape):
    object: Literal["list"]
    data: list[WebhookEndpointAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class WebhookTestAnswer(Shape):
    object: Literal["webhook_endpoint.test"]
    webhook_endpoint_id: str
    event_type: str
    status_code: int
    success: Literal[True]


class WebhookDelivery(Shape):
    id: str
    object: Literal["webhook_delivery"]
    event_id: str
    event_type: str
    data: dict[str, Any]
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    created_at: int
    last_attempt_at: int | None
    next_attempt_at: int | None
    status_code: int | None
    error: str | None


class WebhookDeliveryList(Shape):
    object: Literal["list"]
    data: list[WebhookDelivery]
    first_id: str | None
    last_id: str | None
    has_more: bool


class WebhookEventTypeList(Shape):
    object: Literal["list"]
    data: list[str]
