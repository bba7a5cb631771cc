"""Events -> OpenAI's list of embeddings. Each delta holds one vector as base64."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from api.embeddings.vectors import numbers, shortened
from api.jobs.endpoint import Endpoint
from api.process.offload import offload
from api.reading.choice import TokenDecoder
from api.request.response_meta import ResponseMeta
from common.wire import Delta, Event, Failed, Finished


@dataclass(frozen=True, slots=True)
class EmbeddingMeta(ResponseMeta):
    num_inputs: int
    encoding_format: str
    dimensions: int | None


class EmbeddingCompletion:
    """Folds a job's events into OpenAI's list of embeddings."""

    def __init__(self, meta: EmbeddingMeta, _: TokenDecoder) -> None:
        self.failed: Failed | None = None
        self.meta = meta
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
            "data": offload(self._listed, [self._vectors[index] for index in range(self.meta.num_inputs)]),
            "model": self.meta.model,
            "usage": {"prompt_tokens": self._num_tokens, "total_tokens": self._num_tokens},
        }

    def _listed(self, vectors: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {"object": "embedding", "index": index, "embedding": self._encoded(vector)}
            for index, vector in enumerate(vectors)
        ]

    def _encoded(self, vector: str) -> str | orjson.Fragment:
        """Numbers are serialized one vector at a time: all together may be millions."""
        vector = vector if self.meta.dimensions is None else shortened(vector, self.meta.dimensions)
        return vector if self.meta.encoding_format == "base64" else orjson.Fragment(orjson.dumps(numbers(vector)))


EMBEDDING = Endpoint(kind="embedding", name="a list of embeddings", meta=EmbeddingMeta, completion=EmbeddingCompletion)
