"""/v1/embeddings: texts or token ids to one job for an encoder, its vectors to OpenAI's list."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from flask import Blueprint, request

from api.chat.prepare import new_id, submission
from api.embeddings.vectors import numbers, shortened, vector_bytes
from api.gate.auth import Caller
from api.gate.body import read_body
from api.jobs.answers import Answer
from api.jobs.generation import submit
from api.jobs.json_answers import about_job
from api.jobs.service import Service
from api.jobs.serving import owned_job
from api.process.offload import offload
from api.prompt.encoder import PromptEncoder
from api.schema.embeddings import MAX_INPUT_TOKENS, EmbeddingRequest
from api.schema.parse import parse
from common.errors import ContextLengthExceeded, InvalidRequest
from common.wire import Delta, Event, Failed, Finished, GenerationRequest, SamplingParams

KEPT_S = 60  # vectors are large, and nobody resumes them


@dataclass(frozen=True, slots=True)
class EmbeddingForm:
    """How the answer is worded."""

    id: str
    model: str
    created: int
    num_inputs: int
    encoding_format: str
    dimensions: int | None
    kind: str = "embedding"


class Embeddings:
    """Events folded into OpenAI's list."""

    def __init__(self, form: EmbeddingForm) -> None:
        self.failed: Failed | None = None
        self._form = form
        self._vectors: dict[int, str] = {}
        self._num_tokens = 0

    def feed(self, event: Event) -> None:
        if isinstance(event, Delta):
            self._vectors[event.index] = event.text
        elif isinstance(event, Finished):
            self._num_tokens = event.prompt_tokens
        else:
            self.failed = event

    def body(self) -> dict[str, Any]:
        return {
            "object": "list",
            "data": offload(self._listed, [self._vectors[index] for index in range(self._form.num_inputs)]),
            "model": self._form.model,
            "usage": {"prompt_tokens": self._num_tokens, "total_tokens": self._num_tokens},
        }

    def _listed(self, vectors: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {"object": "embedding", "index": index, "embedding": self._worded(vector)}
            for index, vector in enumerate(vectors)
        ]

    def _worded(self, vector: str) -> str | orjson.Fragment:
        """Numbers are written one vector at a time: all together they may be millions."""
        vector = vector if self._form.dimensions is None else shortened(vector, self._form.dimensions)
        return vector if self._form.encoding_format == "base64" else orjson.Fragment(orjson.dumps(numbers(vector)))


def embedding_routes(service: Service) -> Blueprint:
    routes = Blueprint("embeddings", __name__)

    @routes.post("/v1/embeddings")
    def create() -> Any:
        answer, form = asked(service)
        return about_job(form.id, answer.body(Embeddings(form)))

    return routes


def asked(service: Service) -> tuple[Answer, EmbeddingForm]:
    """Put what was sent into the line."""
    caller = service.keys.caller(request)
    raw = read_body(request)
    body = parse(EmbeddingRequest, raw)
    encoder = service.models.encoder(body.model, "embed")
    form = form_of(body)
    wanted = request_of(body, inputs_of(body, encoder), form, caller)
    answer = Answer(service, request, form.id, is_background=False)
    try:
        job = submission(wanted, form, body, encoder, caller, request.headers, raw, kept_s=KEPT_S)
        job = replace(job, vector_bytes=vector_bytes(encoder.card.num_dimensions or 0))
        job_id = submit(service.store, job)
        if job_id != form.id:
            answer.follow(job_id)
            form = EmbeddingForm(**owned_job(service, caller, job_id).form)
    except BaseException:
        answer.give_up()
        raise
    return answer, form


def form_of(body: EmbeddingRequest) -> EmbeddingForm:
    return EmbeddingForm(
        id=new_id("embd-"),
        model=body.model,
        created=int(time.time()),
        num_inputs=len(body.input),
        encoding_format=body.encoding_format or "float",
        dimensions=body.dimensions,
    )


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


def request_of(
    body: EmbeddingRequest, inputs: Sequence[Sequence[int]], form: EmbeddingForm, caller: Caller
) -> GenerationRequest:
    return GenerationRequest(
        id=form.id,
        model=body.model,
        prompt_ids=tuple(token_id for ids in inputs for token_id in ids),
        sampling=SamplingParams(max_tokens=0, seed=0),
        cache_salt=caller.owner,
        input_lengths=tuple(map(len, inputs)),
    )
