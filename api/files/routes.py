"""/v1/files: upload; list, describe, read and delete the caller's own files."""

from typing import Any

from flask import Blueprint, Response, request

from api.files.content import content
from api.files.receive import receive_file
from api.files.stored import delete, described, found_file, listed, no_file
from api.jobs.service import Service
from common.records.files import HIDDEN, FileRecord

BYTES = "application/octet-stream"


def file_routes(service: Service) -> Blueprint:
    routes = Blueprint("files", __name__)

    def found(file_id: str) -> FileRecord:
        record = found_file(service, service.keys.caller(request).owner, file_id)
        if record.purpose in HIDDEN:
            raise no_file(file_id)
        return record

    @routes.post("/v1/files")
    def create() -> dict[str, Any]:
        caller = service.keys.caller(request)
        return described(receive_file(service, request, caller.owner))

    @routes.get("/v1/files")
    def page() -> dict[str, Any]:
        return listed(service, service.keys.caller(request).owner, request)

    @routes.get("/v1/files/<file_id>")
    def retrieve(file_id: str) -> dict[str, Any]:
        return described(found(file_id))

    @routes.get("/v1/files/<file_id>/content")
    def read(file_id: str) -> Response:
        return content(service, request, found(file_id), BYTES)

    @routes.delete("/v1/files/<file_id>")
    def remove(file_id: str) -> dict[str, Any]:
        delete(service, found(file_id).owner, file_id)
        return {"id": file_id, "object": "file", "deleted": True}

    return routes
