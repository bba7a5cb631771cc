"""Requests to encoders: POST /v1/embeddings (OpenAI's), /v1/rerank (Jina's and Cohere's) and /v1/score (vLLM's)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from api.schema.base import (
    MAX_TIMEOUT_S,
    MIN_TIMEOUT_S,
    Base,
    KeepAlive,
    Labelled,
    NotBefore,
    TokenIds,
    as_list_of_prompts,
)
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
    not_before: NotBefore | None = None
    keep_alive: KeepAlive = None


def _not_false(value: bool | None) -> bool | None:
    if value is False:
        raise ValueError("the model's own activation is always used; leave it out")
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


ALL_THAT_FITS = -1
MostPairTokens = Annotated[int, Field(ge=ALL_THAT_FITS)]
Texts = Annotated[
    list[str],
    Field(min_length=1, max_length=MAX_INPUTS),
    BeforeValidator(_as_list, json_schema_input_type=str | list[str]),
]


class Document(Base):
    text: str


class Scored(Labelled):
    """Fields that both requests share."""

    refused: ClassVar[Mapping[str, Refusal]] = MappingProxyType(
        {"background": Refusal("is not supported: scores cannot be fetched later")}
    )

    truncate_prompt_tokens: MostPairTokens | None = None
    use_activation: Annotated[bool | None, AfterValidator(_not_false)] = None
    priority: int | None = Field(None, ge=-100, le=100)
    timeout: float | None = Field(None, ge=MIN_TIMEOUT_S, le=MAX_TIMEOUT_S)
    not_before: NotBefore | None = None
    keep_alive: KeepAlive = None


class RerankRequest(Scored):
    """POST /v1/rerank, /rerank and /v2/rerank."""

    refused: ClassVar[Mapping[str, Refusal]] = MappingProxyType(
        {
            **Scored.refused,
            "rank_fields": Refusal("is not supported: a document is a text, or an object with 'text'", (["text"],)),
            "max_chunks_per_doc": Refusal("is not supported: a long document is cut, not divided", (1,)),
            "relevant_spans": Refusal("is not supported by this server"),
        }
    )

    query: str = Field(min_length=1)
    documents: list[str | Document] = Field(min_length=1, max_length=MAX_INPUTS)
    top_n: int | None = Field(None, ge=0)
    return_documents: bool | None = None
    max_tokens_per_doc: int | None = Field(None, ge=1)


class ScoreRequest(Scored):
    """POST /v1/score and /score."""

    text_1: Texts | None = None
    text_2: Texts | None = None
    queries: Texts | None = None
    documents: Texts | None = None
