"""/v1/webhook_endpoints: create, list, retrieve, update, rotate the secret, test, delete; and their deliveries."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, request

from api.gate.auth import Caller
from api.gate.body import read_body, read_optional_body
from api.jobs.service import Service
from api.request.pages import list_of, page_size
from api.schema.parse import parse
from api.webhooks.endpoints import WebhookStore, delivery_object, endpoint_object
from api.webhooks.schema import (
    CreateWebhookRequest,
    RotateSecretRequest,
    TestWebhookRequest,
    UpdateWebhookRequest,
)
from common.webhooks.events import EVENT_TYPES


class Changes:
    """Endpoints to be changed: an admin's changes of other keys' endpoints, and of those of all keys, are recorded."""

    def __init__(self, service: Service, store: WebhookStore) -> None:
        self._service = service
        self._store = store

    @contextmanager
    def of(self, caller: Caller, endpoint_id: str, action: str, **details: Any) -> Iterator[Any]:
        """The row of the endpoint. Raises NotFound."""
        row = self._store.found(caller, endpoint_id)
        with self.recorded(caller, action, endpoint_id, row.owner, row.scope, details | receiver(row.url)):
            yield row

    def recorded(
        self, caller: Caller, action: str, target: str, owner: str, scope: str, details: dict[str, Any]
    ) -> AbstractContextManager[None]:
        of = "" if scope == "all" else owner
        return self._service.audit.change(caller, f"webhook_endpoint.{action}", target, of=of, scope=scope, **details)


def receiver(url: str) -> dict[str, Any]:
    """The host alone: the rest of an address may be a secret. None where the address is not well formed."""
    try:
        return {"host": urlsplit(url).hostname}
    except ValueError:
        return {"host": None}


def webhook_routes(service: Service) -> Blueprint:
    routes = Blueprint("webhooks", __name__)
    store = WebhookStore(service)
    changes = Changes(service, store)
    add_endpoints(routes, service, store, changes)
    add_actions(routes, service, store, changes)
    add_deliveries(routes, service, store, changes)
    return routes


def add_endpoints(routes: Blueprint, service: Service, store: WebhookStore, changes: Changes) -> None:
    @routes.get("/v1/webhook_event_types")
    def event_types() -> dict[str, Any]:
        service.keys.caller(request)
        return {"object": "list", "data": list(EVENT_TYPES)}

    @routes.post("/v1/webhook_endpoints")
    def create() -> dict[str, Any]:
        caller = service.keys.caller(request)
        body = parse(CreateWebhookRequest, read_body(request))
        with changes.recorded(caller, "create", body.name, caller.owner, body.scope, receiver(body.url)):
            row = store.create(caller, body)
        return endpoint_object(row) | {"signing_secret": row.secret}

    @routes.get("/v1/webhook_endpoints")
    def endpoints() -> dict[str, Any]:
        caller = service.keys.caller(request)
        limit = page_size(request)
        rows = store.page(caller, limit, request.args.get("after", ""))
        return list_of([endpoint_object(row) for row in rows[:limit]], has_more=len(rows) > limit)

    @routes.get("/v1/webhook_endpoints/<endpoint_id>")
    def retrieve(endpoint_id: str) -> dict[str, Any]:
        return endpoint_object(store.found(service.keys.caller(request), endpoint_id))

    @routes.post("/v1/webhook_endpoints/<endpoint_id>")
    def update(endpoint_id: str) -> dict[str, Any]:
        caller = service.keys.caller(request)
        body = parse(UpdateWebhookRequest, read_body(request))
        fields = body.model_dump(include={"name", "event_types", "disabled"}, exclude_none=True)
        new = {"new_host": receiver(body.url)["host"]} if body.url is not None else {}
        with changes.of(caller, endpoint_id, "update", **fields, **new) as row:
            return endpoint_object(store.update(row, body))

    @routes.delete("/v1/webhook_endpoints/<endpoint_id>")
    def delete(endpoint_id: str) -> dict[str, Any]:
        with changes.of(service.keys.caller(request), endpoint_id, "delete") as row:
            store.remove(row)
        return {"id": endpoint_id, "object": "webhook_endpoint.deleted", "deleted": True}


def add_actions(routes: Blueprint, service: Service, store: WebhookStore, changes: Changes) -> None:
    @routes.post("/v1/webhook_endpoints/<endpoint_id>/rotate_secret")
    def rotate_secret(endpoint_id: str) -> dict[str, Any]:
        caller = service.keys.caller(request)
        body = parse(RotateSecretRequest, read_optional_body(request))
        with changes.of(caller, endpoint_id, "rotate_secret") as row:
            row = store.rotate(row, keep_old=bool(body.keep_old_secret_active_for_24_hours))
        return endpoint_object(row) | {"signing_secret": row.secret}

    @routes.post("/v1/webhook_endpoints/<endpoint_id>/test")
    def test(endpoint_id: str) -> dict[str, Any]:
        caller = service.keys.caller(request)
        body = parse(TestWebhookRequest, read_optional_body(request))
        with changes.of(caller, endpoint_id, "test") as row:
            status = store.test(row, body.event_type)
        return {
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": endpoint_id,
            "event_type": body.event_type,
            "status_code": status,
            "success": True,
        }


def add_deliveries(routes: Blueprint, service: Service, store: WebhookStore, changes: Changes) -> None:
    @routes.get("/v1/webhook_endpoints/<endpoint_id>/deliveries")
    def deliveries(endpoint_id: str) -> dict[str, Any]:
        row = store.found(service.keys.caller(request), endpoint_id)
        limit = page_size(request)
        rows = store.deliveries(row, limit, request.args.get("after", ""))
        return list_of([delivery_object(row) for row in rows[:limit]], has_more=len(rows) > limit)

    @routes.post("/v1/webhook_endpoints/<endpoint_id>/deliveries/<delivery_id>/redeliver")
    def redeliver(endpoint_id: str, delivery_id: str) -> dict[str, Any]:
        with changes.of(service.keys.caller(request), endpoint_id, "redeliver", delivery=delivery_id) as row:
            return delivery_object(store.redeliver(row, delivery_id))
