"""Tokens: the requests of POST /tokenize and POST /detokenize."""

from typing import Annotated, Any

from pydantic import Field

from api.schema.base import MAX_MESSAGES, MAX_TOOLS, Base, TokenId
from api.schema.chat import ChatTool, Effort, Message, ThinkingSwitch


class TokenizeRequest(Base):
    """POST /tokenize: a text, or a conversation that the model's template renders."""

    model: str | None = Field(None, max_length=256)
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)] | None = None
    tools: list[ChatTool] | None = Field(None, max_length=MAX_TOOLS)
    reasoning_effort: Effort | None = None
    thinking: ThinkingSwitch | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Base):
    """POST /detokenize."""

    model: str | None = Field(None, max_length=256)
    tokens: Annotated[list[TokenId], Field(fail_fast=True)]
