"""Embeddings: the request of POST /v1/embeddings."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from api.schema.base import MAX_TIMEOUT_S, MIN_TIMEOUT_S, Labelled, TokenIds, as_list_of_prompts
from api.schema.unsupported import Refusal

MAX_INPUTS = 2048  # texts to embed; this and the next are OpenAI's limits
MAX_INPUT_TOKENS = 300_000

Inputs = Annotated[
    Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_INPUTS)]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS)],
    BeforeValidator(as_list_of_prompts, json_schema_input_type=str | list[str] | TokenIds | list[TokenIds]),
]


class EmbeddingRequest(Labelled):
    """POST /v1/embeddings."""

    refused: ClassVar[Mapping[str, Refusal]] = MappingProxyType(
        {
            "background": Refusal("is not supported: embeddings cannot be fetched later"),
            "truncate_prompt_tokens": Refusal("is not supported; shorten the input"),
        }
    )

    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)
    priority: int | None = Field(None, ge=-100, le=100)
    timeout: float | None = Field(None, ge=MIN_TIMEOUT_S, le=MAX_TIMEOUT_S)
