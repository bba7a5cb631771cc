"""One POST request that passed the gate: its caller, its body, and the encoder of the model it names."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from flask import Request

from api.gate.auth import Caller
from api.gate.body import read_body
from api.jobs.service import Service
from api.prompt.encoder import PromptEncoder
from api.schema.base import ForModel, Sampling
from api.schema.parse import parse
from common.errors import InvalidRequest
from common.wire import Task, Tier

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

    @property
    def tier(self) -> Tier:
        """Raises InvalidRequest for a tier that the caller's key may not use."""
        return self.caller.tier(self._asked_tier)

    @property
    def _asked_tier(self) -> str | None:
        """Raises InvalidRequest for a window together with a tier that has none.

        A request with a window is served as flex. OpenAI asks for its windows in the tier `default`.
        """
        asked: str | None = getattr(self.body, "service_tier", None)
        if not (isinstance(self.body, Sampling) and self.body.has_window):
            return asked
        if asked not in (None, "auto", "default", "flex"):
            raise InvalidRequest(f"A request of the tier {asked!r} has no completion_window.", param="service_tier")
        return "flex"

    @property
    def shown_tier(self) -> Tier | None:
        """The tier as OpenAI's answers show it: None when the request names none and gets the default."""
        is_named = self._asked_tier is not None
        return self.tier if is_named or self.tier != "default" else None

    @classmethod
    def of(cls, service: Service, http: Request, schema: type[BodyT], task: Task = "generate") -> "Call[BodyT]":
        """Raises the refusals of the gate, ModelNotFound or ModelNotReady."""
        caller = service.keys.caller(http)
        raw = read_body(http)
        body = parse(schema, raw)
        return cls(service, http, caller, raw, body, service.models.encoder(body.model, task))
