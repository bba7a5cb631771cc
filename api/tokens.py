"""/tokenize and /detokenize, compatible with vLLM."""

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, request

from api.gate.body import read_body
from api.jobs.service import Service
from api.process.offload import offload
from api.prompt.conversation import Conversation
from api.prompt.encoder import PromptEncoder
from api.prompt.images import placed_images
from api.request.custom_tools import as_function
from api.request.template_kwargs import template_kwargs
from api.schema.parse import parse
from api.schema.tokens import DetokenizeRequest, TokenizeRequest
from common.errors import InvalidRequest


def token_routes(service: Service) -> Blueprint:
    routes = Blueprint("tokens", __name__)

    @routes.post("/tokenize")
    def tokenize() -> dict[str, Any]:
        service.keys.caller(request)
        body = parse(TokenizeRequest, read_body(request))
        check_together(body)
        encoder = service.models.encoder(body.model or service.queue, task=None)
        ids = ids_of(body, encoder)
        return {
            "count": len(ids),
            "max_model_len": encoder.card.max_model_len,
            "tokens": ids,
            "token_strs": offload(names_of, ids, encoder) if body.return_token_strs else None,
        }

    @routes.post("/detokenize")
    def detokenize() -> dict[str, str]:
        service.keys.caller(request)
        body = parse(DetokenizeRequest, read_body(request))
        encoder = service.models.encoder(body.model or service.queue, task=None)
        if (highest := max(body.tokens, default=0)) >= encoder.card.vocab_size:
            raise encoder.card.unknown_token("tokens", highest)
        return {"prompt": encoder.decode(body.tokens)}

    return routes


def check_together(body: TokenizeRequest) -> None:
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequest("Give either 'prompt' or 'messages'.", param="prompt")


def names_of(ids: Sequence[int], encoder: PromptEncoder) -> list[str | None]:
    return [encoder.token_name(token_id) for token_id in ids]


def ids_of(body: TokenizeRequest, encoder: PromptEncoder) -> list[int]:
    """Ids of the prompt as /v1/completions encodes it, or of the messages as /v1/chat/completions does."""
    if body.messages is None:
        with_special = body.add_special_tokens is not False
        return encoder.tokenize_all([body.prompt or ""], encoder.most_tokens, with_special)[0]
    conversation = Conversation(
        messages=offload(placed_images, body.messages, encoder.card),
        tools=[as_function(tool) for tool in body.tools or ()],
        template_kwargs=template_kwargs(body),
        continue_final=bool(body.continue_final_message),
        add_generation_prompt=body.add_generation_prompt is not False,
    )
    return list(encoder.encode_chat(conversation).ids)
