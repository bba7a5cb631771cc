"""Bases of the request models: strictness, limits, the caller's labels, sampling, the answer's format.

Unknown fields are accepted and ignored, because IDEs send many; docs/api/inference.md lists each known one.
"""

import re
import time
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from api.schema.unsupported import Refusal
from common.shelf.keep_alive import parse_keep_alive

MAX_N = 16
MAX_STOP = 16
MAX_STOP_CHARACTERS = 256
MAX_LOGIT_BIAS = 1024
MAX_TOOLS = 128  # OpenAI's limit for chat
MAX_OFFERED = 1024  # tools elsewhere: agents with many MCP servers exceed OpenAI's limit
MAX_MESSAGES = 4096
MAX_PARTS = 4096  # content parts of one message
MAX_METADATA = 16  # this and the next three are OpenAI's limits
MAX_METADATA_KEY = 64
MAX_METADATA_VALUE = 512
MAX_SAFETY_IDENTIFIER = 128
MAX_LABEL = 512  # `user` and the like; OpenAI publishes no limit
MIN_TIMEOUT_S = 0.001
MAX_TIMEOUT_S = 86_400.0
MAX_AHEAD_S = 30 * 86_400.0
MAX_TOKEN_ID = 2**31

RFC_3339 = re.compile(  # the form; leap seconds, which Python's times do not have, are left out
    r"\d{4}-\d\d-\d\d[Tt](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)", re.ASCII
)

NO_REFUSALS: Mapping[str, Refusal] = MappingProxyType({})


class Base(BaseModel):
    """Strict and frozen. `refused`: known fields that would change the answer and that this server cannot honour."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    refused: ClassVar[Mapping[str, Refusal]] = NO_REFUSALS


def _as_list(value: Any) -> Any:
    """'' is no stop string: forms with an empty field send it."""
    if value == "":
        return []
    if not isinstance(value, str | list):
        raise ValueError("must be a string or a list of strings")
    return [value] if isinstance(value, str) else value


StopStrings = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]],
    Field(max_length=MAX_STOP),
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
]
ALL_TOKENS = -1
ServiceTier = Literal["auto", "default", "flex", "priority", "fast"]


def _not_zero(value: int) -> int:
    if value == 0:
        raise ValueError("must be 1 or more, or -1 for as many as the context holds")
    return value


MostTokens = Annotated[  # -1 is LM Studio's and Ollama's "no limit"
    int,
    Field(ge=ALL_TOKENS),
    AfterValidator(_not_zero),
    WithJsonSchema({"type": "integer", "minimum": ALL_TOKENS, "not": {"const": 0}}),
]
Label = Annotated[str, Field(max_length=MAX_LABEL)]
Metadata = Annotated[
    dict[
        Annotated[str, Field(max_length=MAX_METADATA_KEY)], Annotated[str | None, Field(max_length=MAX_METADATA_VALUE)]
    ],
    Field(max_length=MAX_METADATA),
]
TokenId = Annotated[int, Field(ge=0, lt=MAX_TOKEN_ID)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


def as_list_of_prompts(value: Any) -> Any:
    """'text' and [1, 2] are one prompt each; ['text'] and [[1, 2]] are lists of prompts."""
    is_one = isinstance(value, str) or (
        isinstance(value, list) and bool(value) and all(isinstance(item, int) for item in value)
    )
    return [value] if is_one else value


def _keep_alive(value: Any) -> Any:
    """'' is none: forms with an empty field send it."""
    return None if value in (None, "") else parse_keep_alive(value)


KeepAlive = Annotated[
    float | None, BeforeValidator(_keep_alive, json_schema_input_type=float | str | None)
]  # how long the model stays loaded after the request, in Ollama's words; None: as it is set


class ForModel(Base):
    """A request that names its model."""

    model: str = Field(min_length=1, max_length=256)


class Labelled(ForModel):
    """Labels that callers put on a request. They never change the answer; bounded, because some of them are stored."""

    metadata: Metadata | None = None
    user: Label | None = None
    safety_identifier: str | None = Field(None, max_length=MAX_SAFETY_IDENTIFIER)
    prompt_cache_key: Label | None = None


def _time(value: Any) -> Any:
    """RFC 3339 text -> unix seconds; numbers as they are."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    fault = "must be unix seconds, or a time as in 2026-11-27T08:00:00Z"
    if not isinstance(value, str) or not RFC_3339.fullmatch(value):
        raise ValueError(fault)
    try:
        return datetime.fromisoformat(value.upper()).timestamp()
    except ValueError:  # the 30th of February
        raise ValueError(fault) from None


def _near(value: float) -> float:
    if value > time.time() + MAX_AHEAD_S:
        raise ValueError("may be 30 days ahead at most")
    return value


NotBefore = Annotated[
    float,
    Field(ge=0),
    AfterValidator(_near),
    BeforeValidator(_time, json_schema_input_type=float | str),
]


class BackgroundOptions(Base):
    completion_window: Literal["soonest", "2h", "8h"] | None = None


class MetadataChange(Base):
    """A change of something that is kept. Null removes all metadata."""

    metadata: Metadata | None


class StreamOptions(Base):
    include_usage: bool | None = None
    include_event_ids: bool | None = None  # our extension: chunks carry numbers to resume after


class Sampling(Labelled):
    """Sampling fields that chat, completions and responses share. None: the default in docs/api/inference.md."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1_000_000)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.01, le=10)
    logit_bias: dict[str, float] | None = Field(None, max_length=MAX_LOGIT_BIAS)
    max_tokens: MostTokens | None = None
    min_tokens: int | None = Field(None, ge=0)
    seed: int | None = Field(None, ge=-(2**63), lt=2**64)
    stop: StopStrings | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = Field(None, max_length=64)
    ignore_eos: bool | None = None
    n: int | None = Field(None, ge=1, le=MAX_N)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = None
    background_options: BackgroundOptions | None = None
    not_before: NotBefore | None = None  # the request is admitted then
    service_tier: ServiceTier | None = None
    priority: int | None = Field(None, ge=-100, le=100)  # the lower, the earlier; below 0 needs a key with that right
    timeout: float | None = Field(None, ge=MIN_TIMEOUT_S, le=MAX_TIMEOUT_S)
    keep_alive: KeepAlive = None  # our extension: Ollama's

    @property
    def has_window(self) -> bool:
        """True if it may take hours: it waits behind requests that are needed sooner."""
        return self.background_options is not None and self.background_options.completion_window in ("2h", "8h")

    @field_validator("background_options")
    @classmethod
    def options_are_for_background(
        cls, value: BackgroundOptions | None, info: ValidationInfo
    ) -> BackgroundOptions | None:
        if value is not None and not info.data.get("background"):
            raise ValueError('needs "background": true')
        return value

    @field_validator("logit_bias")
    @classmethod
    def bias_is_bounded(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        for token, bias in (value or {}).items():
            if not (token.isascii() and token.isdigit() and len(token) <= 9):
                raise ValueError("keys must be token ids")
            if not -100 <= bias <= 100:
                raise ValueError("values must be between -100 and 100")
        return value


class JsonSchema(Base):
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Base):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")  # llama.cpp's place for it


class Structured(Sampling):
    """The format that the answer's text must have, under OpenAI's field name or another server's."""

    response_format: ResponseFormat | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    regex: str | None = None
    ebnf: str | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | str | None = None
    skip_special_tokens: bool | None = None
