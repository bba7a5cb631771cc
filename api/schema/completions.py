"""Completions: the request of POST /v1/completions, for a text or token ids instead of a conversation."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from api.schema.base import Structured, TokenIds, as_list_of_prompts
from api.schema.unsupported import CHAT, OLD_CALLS, Refusal

MAX_PROMPTS = 64
MAX_CHOICES = 128  # prompts times n
HONOURED_HERE = ("best_of", "echo", "add_special_tokens", "return_token_ids")

Prompts = Annotated[
    Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
    | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)],
    BeforeValidator(as_list_of_prompts, json_schema_input_type=str | list[str] | TokenIds | list[TokenIds]),
]

REFUSED: Mapping[str, Refusal] = MappingProxyType(
    {name: refusal for name, refusal in {**CHAT, **OLD_CALLS}.items() if name not in HONOURED_HERE}
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
