"""GET /v1/models: the models that workers serve now."""

from flask import Blueprint, request

from api.jobs.service import Service
from api.prompt.models import other_name
from common.errors import ModelNotReady


def model_routes(service: Service) -> Blueprint:
    routes = Blueprint("models", __name__)

    @routes.get("/v1/models")
    def models() -> dict[str, object]:
        service.keys.caller(request)
        found = service.models.described()
        ends = (
            {"first_id": found[0]["id"], "last_id": found[-1]["id"]} if found else {"first_id": None, "last_id": None}
        )
        return {"object": "list", "data": found, **ends, "has_more": False}

    @routes.get("/v1/models/<path:name>")
    def model(name: str) -> dict[str, object]:
        service.keys.caller(request)
        for described in service.models.described():
            if described["id"] in (name, other_name(name)):
                return described
        service.models.encoder(name)
        raise ModelNotReady("Model not ready")

    return routes
