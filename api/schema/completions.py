"""The gate of the endpoints that take text or tokens, not a conversation. The rules are those of api/schema/chat.py."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from api.schema.chat import (
    MAX_MESSAGES,
    MAX_TIMEOUT_S,
    MAX_TOOLS,
    MIN_TIMEOUT_S,
    Base,
    Marked,
    Message,
    Structured,
    Tool,
)
from api.schema.unsupported import CHAT, Refusal

MAX_PROMPTS = 64
MAX_CHOICES = 128  # prompts times n
MAX_TOKEN_ID = 2**31
MAX_INPUTS = 2048  # texts to embed; OpenAI's limit, like the next
MAX_INPUT_TOKENS = 300_000
HONOURED_HERE = ("best_of", "echo", "add_special_tokens", "return_token_ids")

TokenId = Annotated[int, Field(ge=0, lt=MAX_TOKEN_ID)]
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]


def _as_list_of_prompts(value: Any) -> Any:
    """'text' and [1, 2] are one prompt each; ['text'] and [[1, 2]] are lists of them."""
    is_one = isinstance(value, str) or (
        isinstance(value, list) and bool(value) and all(isinstance(item, int) for item in value)
    )
    return [value] if is_one else value


Several = Field(min_length=1, max_length=MAX_PROMPTS)
Prompts = Annotated[
    Annotated[list[str], Several] | Annotated[list[TokenIds], Several],
    BeforeValidator(_as_list_of_prompts, json_schema_input_type=str | list[str] | TokenIds | list[TokenIds]),
]


REFUSED: Mapping[str, Refusal] = MappingProxyType(
    {name: refusal for name, refusal in CHAT.items() if name not in HONOURED_HERE}
    | {name: Refusal("is for /v1/chat/completions") for name in ("tools", "tool_choice", "messages")}
)


class CompletionRequest(Structured):
    """POST /v1/completions."""

    refused: ClassVar[Mapping[str, Refusal]] = REFUSED

    prompt: Prompts
    suffix: str | None = None
    echo: bool | None = None
    best_of: int | None = Field(None, ge=1)
    logprobs: int | None = Field(None, ge=0, le=20)
    add_special_tokens: bool | None = None
    return_token_ids: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def empty_suffix_is_none(cls, body: Any) -> Any:
        """Editors send `"suffix": ""` at the end of a file: there is nothing to fill in before it."""
        if isinstance(body, dict) and body.get("suffix") == "":
            return {name: value for name, value in body.items() if name != "suffix"}
        return body


class TokenizeRequest(Base):
    """POST /tokenize: a text, or a conversation as the model's template would write it."""

    model: str | None = Field(None, max_length=256)
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def one_of_two(self) -> "TokenizeRequest":
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either 'prompt' or 'messages'")
        return self


class DetokenizeRequest(Base):
    """POST /detokenize."""

    model: str | None = Field(None, max_length=256)
    tokens: Annotated[list[TokenId], Field(fail_fast=True)]


Inputs = Annotated[
    Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1, max_length=MAX_INPUTS)]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS)],
    BeforeValidator(_as_list_of_prompts, json_schema_input_type=str | list[str] | TokenIds | list[TokenIds]),
]


class EmbeddingRequest(Marked):
    """POST /v1/embeddings."""

    refused: ClassVar[Mapping[str, Refusal]] = MappingProxyType(
        {
            "background": Refusal("is not supported: embeddings cannot be fetched later"),
            "truncate_prompt_tokens": Refusal("is not supported; shorten the input"),
        }
    )

    model: str = Field(min_length=1, max_length=256)
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)
    priority: int | None = Field(None, ge=-100, le=100)
    timeout: float | None = Field(None, ge=MIN_TIMEOUT_S, le=MAX_TIMEOUT_S)

    @property
    def background(self) -> bool:
        return False
