"""GET /v1/models; POST /v1/models/{id}/load, /unload, /pin and /unpin; llama.cpp's words for them."""

from typing import Any, get_args

from flask import Blueprint, Response, jsonify, request

from api.gate.body import read_body, read_optional_body
from api.jobs.service import Service
from api.models.objects import model_object, model_objects
from api.models.orders import order_model
from api.models.schema import MAX_WAIT_S, ModelOrder, NamedModelOrder
from api.request.pages import list_of
from api.schema.parse import parse
from common.errors import InvalidRequest
from common.redis.served.shelf import Action


def model_routes(service: Service) -> Blueprint:
    routes = Blueprint("models", __name__)

    @routes.get("/v1/models")
    @routes.get("/models")  # llama.cpp's
    def models() -> dict[str, object]:
        service.keys.caller(request)
        return list_of(model_objects(service))

    @routes.get("/v1/models/<path:name>")
    def model(name: str) -> dict[str, object]:
        service.keys.caller(request)
        return model_object(service, name)

    add_orders(routes, service)
    return routes


def add_orders(routes: Blueprint, service: Service) -> None:
    def order(name: str, action: Action) -> tuple[Response, int]:
        """202 while it is not done, 200 once it is."""
        caller = service.keys.admin(request)
        body = parse(ModelOrder, read_optional_body(request))
        wait_s = asked_wait() if "wait" in request.args else body.wait_s
        with service.audit.change(caller, f"model.{action}", name, keep_alive=body.keep_alive):
            is_done = order_model(service, name, action, keep_alive_s=body.keep_alive, wait_s=wait_s)
        return jsonify(model_object(service, name)), 200 if is_done else 202

    for action in get_args(Action):
        routes.add_url_rule(
            f"/v1/models/<path:name>/{action}", f"{action}_model", order, methods=["POST"], defaults={"action": action}
        )

    def llama_cpps(action: Action) -> dict[str, Any]:
        """As its router: answers when it is ordered."""
        caller = service.keys.admin(request)
        body = parse(NamedModelOrder, read_body(request))
        with service.audit.change(caller, f"model.{action}", body.model, keep_alive=body.keep_alive):
            order_model(service, body.model, action, keep_alive_s=body.keep_alive, wait_s=body.wait_s)
        return {"success": True}

    for action in ("load", "unload"):
        routes.add_url_rule(
            f"/models/{action}", f"llama_cpps_{action}", llama_cpps, methods=["POST"], defaults={"action": action}
        )


def asked_wait() -> float:
    """The query's `wait`: seconds, or true. Raises InvalidRequest."""
    text = request.args["wait"]
    if text in ("true", "false"):
        return MAX_WAIT_S * (text == "true")
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT_S:
        raise InvalidRequest(f"'wait' must be true, false, or up to {MAX_WAIT_S:.0f} seconds.", param="wait")
    return seconds
