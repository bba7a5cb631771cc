"""Calls as the routes build them, without HTTP."""

from types import SimpleNamespace
from typing import Any, TypeVar

from pydantic import BaseModel

from api.gate.auth import Caller
from api.jobs.call import Call
from api.prompt.encoder import PromptEncoder
from api.schema.parse import parse
from common.grammar.check import GrammarCheck

CALLER = Caller("me", is_admin=False)
BodyT = TypeVar("BodyT", bound=BaseModel)


def call_of(
    schema: type[BodyT], raw: dict[str, Any], encoder: PromptEncoder, *, grammars: GrammarCheck | None = None
) -> Call[BodyT]:
    service: Any = SimpleNamespace(grammars=grammars or GrammarCheck())
    http: Any = None
    return Call(service, http, CALLER, raw, parse(schema, raw), encoder)
