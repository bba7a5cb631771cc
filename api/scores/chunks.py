"""Events -> vLLM's list of scores, or the ranking of Jina and Cohere. Each delta holds one score."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from api.embeddings.vectors import numbers
from api.jobs.endpoint import Endpoint
from api.reading.choice import TokenDecoder
from api.request.response_meta import ResponseMeta
from common.wire import Delta, Event, Failed, Finished


@dataclass(frozen=True, slots=True)
class ScoreMeta(ResponseMeta):
    num_pairs: int
    top_n: int | None  # how many documents are listed; None: the scores are not ranked


class ScoreCompletion:
    """Folds a job's events into vLLM's list of scores."""

    def __init__(self, meta: ScoreMeta, _: TokenDecoder) -> None:
        self.failed: Failed | None = None
        self.meta = meta
        self.num_tokens = 0
        self._scores: dict[int, float] = {}

    def feed(self, event: Event) -> None:
        if isinstance(event, Delta):
            [self._scores[event.index]] = numbers(event.text)
        elif isinstance(event, Finished):
            self.num_tokens = event.prompt_tokens
        else:
            self.failed = event

    @property
    def scores(self) -> list[float]:
        return [self._scores[index] for index in range(self.meta.num_pairs)]

    def body(self) -> dict[str, Any]:
        return {
            "id": self.meta.id,
            "object": "list",
            "created": self.meta.created,
            "model": self.meta.model,
            "data": [{"index": index, "object": "score", "score": score} for index, score in enumerate(self.scores)],
            "usage": {"prompt_tokens": self.num_tokens, "total_tokens": self.num_tokens, "completion_tokens": 0},
        }


class RerankCompletion(ScoreCompletion):
    """Folds a job's events into a ranking, in a form that clients of Jina, Cohere and vLLM read."""

    def __init__(self, meta: ScoreMeta, decoder: TokenDecoder, documents: Sequence[str] | None = None) -> None:
        super().__init__(meta, decoder)
        self._documents = documents

    def body(self) -> dict[str, Any]:
        scores = self.scores
        best = sorted(range(len(scores)), key=lambda index: -scores[index])[: self.meta.top_n]
        return {
            "id": self.meta.id,
            "object": "list",
            "model": self.meta.model,
            "results": [self._result(index, scores[index]) for index in best],
            "usage": {"prompt_tokens": self.num_tokens, "total_tokens": self.num_tokens},
            "meta": {"tokens": {"input_tokens": self.num_tokens, "output_tokens": 0}},
        }

    def _result(self, index: int, score: float) -> dict[str, Any]:
        shown = {} if self._documents is None else {"document": {"text": self._documents[index]}}
        return {"index": index, "relevance_score": score, **shown}


SCORE = Endpoint(kind="score", name="a list of scores", meta=ScoreMeta, completion=ScoreCompletion)
RERANK = Endpoint(kind="rerank", name="a ranking", meta=ScoreMeta, completion=RerankCompletion)


def rerank_endpoint(documents: Sequence[str] | None) -> Endpoint[ScoreMeta]:
    """RERANK, with the texts that the answer shows. They are the request's and are not stored with the job."""
    return replace(RERANK, completion=partial(RerankCompletion, documents=documents))
