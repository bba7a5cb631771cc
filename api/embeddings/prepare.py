"""An embedding request -> one job for an encoder, with all inputs one after the other."""

import time

from api.embeddings.chunks import EmbeddingMeta
from api.embeddings.vectors import vector_bytes
from api.jobs.call import Call
from api.prompt.encoder import PromptEncoder
from api.request.submission import Prepared, QueueOptions, new_id
from api.schema.embeddings import MAX_INPUT_TOKENS, EmbeddingRequest
from common.errors import ContextLengthExceeded, InvalidRequest
from common.wire import GenerationRequest, SamplingParams

KEPT_S = 60  # vectors are large, and no client resumes them


def prepare(call: Call[EmbeddingRequest]) -> Prepared[EmbeddingMeta]:
    """Raises InvalidRequest or ContextLengthExceeded."""
    body, encoder = call.body, call.encoder
    inputs = inputs_of(body, encoder)
    meta = EmbeddingMeta(
        id=new_id("embd-"),
        model=body.model,
        created=int(time.time()),
        num_inputs=len(inputs),
        encoding_format=body.encoding_format or "float",
        dimensions=body.dimensions,
    )
    request = GenerationRequest(
        id=meta.id,
        model=body.model,
        prompt_ids=tuple(token_id for ids in inputs for token_id in ids),
        sampling=SamplingParams(max_tokens=0, seed=0),
        cache_salt=call.caller.owner,
        input_lengths=tuple(map(len, inputs)),
    )
    options = QueueOptions(
        priority=body.priority or 0,
        timeout=body.timeout,
        not_before=body.not_before or 0.0,
        keep_alive_s=body.keep_alive,
    )
    row_bytes = vector_bytes(encoder.card.num_dimensions or 0)
    return Prepared(meta, [request], options, kept_s=KEPT_S, vector_bytes=row_bytes)


def inputs_of(body: EmbeddingRequest, encoder: PromptEncoder) -> list[list[int]]:
    """Each input's token ids: texts with the tokens that the model puts around them, ids as they are."""
    card = encoder.card
    if body.dimensions is not None and body.dimensions > (card.num_dimensions or body.dimensions):
        raise InvalidRequest(f"'dimensions': this model's vectors have {card.num_dimensions}.", param="dimensions")
    inputs = token_ids_of(body.input, encoder)
    for number, ids in enumerate(inputs):
        if len(ids) > card.max_model_len:
            raise ContextLengthExceeded(
                f"'input[{number}]' has {len(ids)} tokens; this model takes {card.max_model_len}.", param="input"
            )
        if not ids or max(ids) >= card.vocab_size:
            fault = f"{max(ids)} is not a token of this model" if ids else "a text without tokens"
            raise InvalidRequest(f"'input[{number}]': {fault}.", param="input")
    if (total := sum(map(len, inputs))) > MAX_INPUT_TOKENS:
        raise InvalidRequest(f"'input' has {total} tokens; a request may have {MAX_INPUT_TOKENS}.", param="input")
    return inputs


def token_ids_of(given: list[str] | list[list[int]], encoder: PromptEncoder) -> list[list[int]]:
    if all(isinstance(item, list) for item in given):
        return given  # type: ignore[return-value]  # the gate lets no mixture through
    for number, text in enumerate(given):
        encoder.check_length(text, f"input[{number}]")  # type: ignore[arg-type]
    return encoder.tokenize_all(given, MAX_INPUT_TOKENS, param="input")  # type: ignore[arg-type]
