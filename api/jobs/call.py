"""One POST request that passed the gate: its caller, its body, and the encoder of the model it names."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from flask import Request

from api.gate.auth import Caller
from api.gate.body import read_body
from api.jobs.service import Service
from api.prompt.encoder import PromptEncoder
from api.schema.base import ForModel
from api.schema.parse import parse
from common.wire import Task

BodyT = TypeVar("BodyT", bound=ForModel)


@dataclass(frozen=True, slots=True)
class Call(Generic[BodyT]):
    """May be large: do not keep it while an answer is waited for."""

    service: Service
    http: Request
    caller: Caller
    raw: dict[str, Any]  # the body as sent
    body: BodyT
    encoder: PromptEncoder

    @classmethod
    def of(cls, service: Service, http: Request, schema: type[BodyT], task: Task = "generate") -> "Call[BodyT]":
        """Raises the refusals of the gate, ModelNotFound or ModelNotReady."""
        caller = service.keys.caller(http)
        raw = read_body(http)
        body = parse(schema, raw)
        return cls(service, http, caller, raw, body, service.models.encoder(body.model, task))
