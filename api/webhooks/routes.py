"""/v1/webhook_endpoints: create, list, retrieve, update, rotate the secret, test, delete; and their deliveries."""

from typing import Any

from flask import Blueprint, request

from api.gate.body import read_body
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


def webhook_routes(service: Service) -> Blueprint:
    routes = Blueprint("webhooks", __name__)
    store = WebhookStore(service)
    add_endpoints(routes, service, store)
    add_actions(routes, service, store)
    add_deliveries(routes, service, store)
    return routes


def add_endpoints(routes: Blueprint, service: Service, store: WebhookStore) -> None:
    @routes.get("/v1/webhook_event_types")
    def event_types() -> dict[str, Any]:
        service.keys.caller(request)
        return {"object": "list", "data": list(EVENT_TYPES)}

    @routes.post("/v1/webhook_endpoints")
    def create() -> dict[str, Any]:
        caller = service.keys.caller(request)
        row = store.create(caller, parse(CreateWebhookRequest, read_body(request)))
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
        row = store.found(service.keys.caller(request), endpoint_id)
        return endpoint_object(store.update(row, parse(UpdateWebhookRequest, read_body(request))))

    @routes.delete("/v1/webhook_endpoints/<endpoint_id>")
    def delete(endpoint_id: str) -> dict[str, Any]:
        store.remove(store.found(service.keys.caller(request), endpoint_id))
        return {"id": endpoint_id, "object": "webhook_endpoint.deleted", "deleted": True}


def add_actions(routes: Blueprint, service: Service, store: WebhookStore) -> None:
    @routes.post("/v1/webhook_endpoints/<endpoint_id>/rotate_secret")
    def rotate_secret(endpoint_id: str) -> dict[str, Any]:
        row = store.found(service.keys.caller(request), endpoint_id)
        body = parse(RotateSecretRequest, read_body(request) if request.content_length else {})
        row = store.rotate(row, keep_old=bool(body.keep_old_secret_active_for_24_hours))
        return endpoint_object(row) | {"signing_secret": row.secret}

    @routes.post("/v1/webhook_endpoints/<endpoint_id>/test")
    def test(endpoint_id: str) -> dict[str, Any]:
        row = store.found(service.keys.caller(request), endpoint_id)
        body = parse(TestWebhookRequest, read_body(request) if request.content_length else {})
        return {
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": endpoint_id,
            "event_type": body.event_type,
            "status_code": store.test(row, body.event_type),
            "success": True,
        }


def add_deliveries(routes: Blueprint, service: Service, store: WebhookStore) -> None:
    @routes.get("/v1/webhook_endpoints/<endpoint_id>/deliveries")
    def deliveries(endpoint_id: str) -> dict[str, Any]:
        row = store.found(service.keys.caller(request), endpoint_id)
        limit = page_size(request)
        rows = store.deliveries(row, limit, request.args.get("after", ""))
        return list_of([delivery_object(row) for row in rows[:limit]], has_more=len(rows) > limit)

    @routes.post("/v1/webhook_endpoints/<endpoint_id>/deliveries/<delivery_id>/redeliver")
    def redeliver(endpoint_id: str, delivery_id: str) -> dict[str, Any]:
        row = store.found(service.keys.caller(request), endpoint_id)
        return delivery_object(store.redeliver(row, delivery_id))
