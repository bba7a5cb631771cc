"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, as vLLM has them: for operators, answered with a sentence."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import gevent
from flask import Blueprint, Response, request

from api.gate.body import read_body
from api.jobs.service import Service
from api.operator.adapter_requests import LoadAdapterRequest, UnloadAdapterRequest
from api.prompt.models import other_name
from api.schema.parse import parse
from common.errors import Conflict, InvalidRequest, NotFound, Unavailable
from common.redis.served.adapters import AdapterRecord

WAIT_S = 60.0  # for all workers
POLL_S = 0.05


def adapter_routes(service: Service) -> Blueprint:
    routes = Blueprint("adapters", __name__)

    @routes.post("/v1/load_lora_adapter")
    def load() -> Response:
        caller = service.keys.admin(request)
        body = parse(LoadAdapterRequest, read_body(request))
        with service.audit.change(caller, "adapter.load", body.lora_name, path=body.lora_path, base=body.base_model):
            AdapterList(service).load(body.lora_name, body.lora_path, body.base_model)
        return sentence(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @routes.post("/v1/unload_lora_adapter")
    def unload() -> Response:
        caller = service.keys.admin(request)
        body = parse(UnloadAdapterRequest, read_body(request))
        with service.audit.change(caller, "adapter.unload", body.lora_name):
            AdapterList(service).unload(body.lora_name)
        return sentence(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

    return routes


def sentence(text: str) -> Response:
    return Response(text, mimetype="text/plain")


class AdapterList:
    """Changes the list of adapters, and waits for the workers to follow it."""

    def __init__(self, service: Service) -> None:
        self._models = service.models
        self._directory = service.store.directory
        self._store = service.models.adapters
        self._service = service

    def load(self, name: str, path: str, base: str | None) -> None:
        """Raises InvalidRequest, Conflict where the base is not loaded, or Unavailable where the workers do not answer.
        The name is free again then."""
        if base is None and len(self._service.settings.models) > 1:
            raise InvalidRequest("There are several models: name the adapter's in 'base_model'.", param="base_model")
        queue = self._models.encoder(base or self._service.queue).card.queue  # a worker has loaded it, or can
        if not self._is_loaded(queue):
            raise Conflict(f"The model {queue!r} is not loaded; load it first (POST /v1/models/{queue}/load).")
        self._check_is_free(name)
        record = AdapterRecord(name, queue, path, number=time.time_ns(), created=int(time.time()))
        version = self._store.add(record)
        if not version:
            raise already_loaded(name)
        try:
            revision = self._revision(name, path, self._followed(queue, version))
            if not self._store.set_ready(replace(record, revision=revision)):
                raise InvalidRequest(f"The lora adapter '{name}' was unloaded meanwhile.", param="lora_name")
        except BaseException:
            self._store.remove(record)
            raise

    def unload(self, name: str) -> None:
        """Its jobs fail. Raises NotFound, or InvalidRequest for one of the settings."""
        record = self._store.get(name)
        if record is None:
            raise NotFound(f"The lora adapter '{name}' cannot be found.")
        if record.is_given:
            raise InvalidRequest(
                f"The lora adapter '{name}' is one of OMNI_ADAPTERS or OMNI_MODELS: take it out there and restart the "
                "service.",
                param="lora_name",
            )
        version = self._store.remove(record)
        if self._is_loaded(record.queue):
            self._followed(record.queue, version)

    def _is_loaded(self, queue: str) -> bool:
        """A worker follows a change when its model is loaded; else when it loads it."""
        entry = self._models.shelf.entries(0).get(queue)
        return entry is None or entry.status == "loaded"

    def _check_is_free(self, name: str) -> None:
        """Raises InvalidRequest. A name that an API process has left behind while it was loading is free."""
        if {name, other_name(name)} & {*self._directory.models(), *self._models.expected}:
            raise InvalidRequest(f"'{name}' is a model's id already.", param="lora_name")
        found = self._store.get(name)
        if found is not None and not found.is_ready and time.time() - found.created > 2 * WAIT_S:
            self._store.remove(found)
            found = None
        if found is not None:
            raise already_loaded(name)

    def _revision(self, name: str, path: str, reports: list[Mapping[str, Any]]) -> str:
        """The one that all workers have loaded. Raises InvalidRequest."""
        if faults := [report["faults"][name] for report in reports if name in report["faults"]]:
            raise InvalidRequest(faults[0], param="lora_path")
        revisions = {str(report["revisions"].get(name)) for report in reports}
        if len(revisions) > 1:
            raise InvalidRequest(f"The workers read different files in {path}.", param="lora_path")
        return revisions.pop()

    def _followed(self, queue: str, version: int) -> list[Mapping[str, Any]]:
        """What the live workers report once all follow this version; there is one at least. Raises Unavailable."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            workers = [worker for worker in self._directory.workers() if worker.get("queue") == queue]
            reports = [json.loads(worker.get("adapters") or "{}") for worker in workers]
            if reports and all(report.get("version", -1) >= version for report in reports):
                return reports
            gevent.sleep(POLL_S)
        raise Unavailable("Not all workers have followed the change of adapters by now; try again.")


def already_loaded(name: str) -> InvalidRequest:
    return InvalidRequest(f"The lora adapter '{name}' has already been loaded; unload it first.", param="lora_name")
