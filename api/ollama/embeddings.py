"""/api/embed and /api/embeddings: the job of /v1/embeddings, answered in Ollama's form."""

import time
from dataclasses import replace
from typing import Any

from api.embeddings.chunks import EmbeddingCompletion, EmbeddingMeta
from api.embeddings.prepare import prepare
from api.jobs.call import Call
from api.jobs.dialects import OLLAMA
from api.jobs.endpoint import Endpoint
from api.prompt.encoder import PromptEncoder
from api.prompt.encoding import LONG_TOKEN
from api.reading.choice import TokenDecoder
from api.request.field_names import named
from api.request.submission import Prepared
from api.schema.embeddings import MAX_INPUT_TOKENS, EmbeddingRequest
from api.schema.ollama import OllamaEmbeddingsRequest, OllamaEmbedRequest


def prepare_embed(call: Call[OllamaEmbedRequest]) -> Prepared[EmbeddingMeta]:
    """Texts that are too long are cut unless `truncate` is false. Raises InvalidRequest or ContextLengthExceeded."""
    body = call.body
    texts = [body.input] if isinstance(body.input, str) else body.input or []
    given = texts if body.truncate is False else cut(texts, call.encoder)
    asked = EmbeddingRequest.model_construct(
        model=body.model, input=given, dimensions=body.dimensions, keep_alive=body.keep_alive
    )
    return prepare(replace(call, body=asked))  # type: ignore[arg-type]  # the same call with another body


def prepare_embedding(call: Call[OllamaEmbeddingsRequest]) -> Prepared[EmbeddingMeta]:
    """Raises InvalidRequest or ContextLengthExceeded."""
    given = cut([call.body.prompt or ""], call.encoder)
    asked = EmbeddingRequest.model_construct(model=call.body.model, input=given, keep_alive=call.body.keep_alive)
    with named({"input": "prompt"}):
        return prepare(replace(call, body=asked))  # type: ignore[arg-type]


def cut(texts: list[str], encoder: PromptEncoder) -> list[list[int]]:
    """Each text's ids, as many as the model takes, with the tokens that it puts around a text."""
    most, frame = encoder.card.max_model_len, encoder.text_frame
    beginnings = [text[: most * LONG_TOKEN] for text in texts]
    tokenized = encoder.tokenize_all(beginnings, MAX_INPUT_TOKENS, add_special_tokens=False, param="input")
    return [frame.framed(ids[: most - frame.size]) for ids in tokenized]


class VectorsOfTexts(EmbeddingCompletion):
    """Folds a job's events into the answer of /api/embed."""

    def __init__(self, meta: EmbeddingMeta, decoder: TokenDecoder) -> None:
        super().__init__(meta, decoder)
        self._began_ns = time.monotonic_ns()

    def body(self) -> dict[str, Any]:
        folded = super().body()
        return {
            "model": self.meta.model,
            "embeddings": [item["embedding"] for item in folded["data"]],
            "total_duration": time.monotonic_ns() - self._began_ns,
            "load_duration": 0,
            "prompt_eval_count": folded["usage"]["prompt_tokens"],
        }


class VectorOfText(EmbeddingCompletion):
    """Folds a job's events into the answer of /api/embeddings."""

    def body(self) -> dict[str, Any]:
        [item] = super().body()["data"]
        return {"embedding": item["embedding"]}


EMBED = Endpoint(
    kind="ollama_embed", name="an answer of /api/embed", meta=EmbeddingMeta, completion=VectorsOfTexts, dialect=OLLAMA
)
EMBEDDINGS = Endpoint(
    kind="ollama_embeddings",
    name="an answer of /api/embeddings",
    meta=EmbeddingMeta,
    completion=VectorOfText,
    dialect=OLLAMA,
)
