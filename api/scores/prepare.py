"""A rerank or score request -> one job for an encoder."""

import time
from typing import Any

from api.embeddings.prepare import KEPT_S
from api.embeddings.vectors import vector_bytes
from api.jobs.call import Call
from api.process.offload import offload
from api.request.submission import Prepared, QueueOptions, new_id
from api.schema.embeddings import ALL_THAT_FITS, RerankRequest, Scored, ScoreRequest
from api.scores.chunks import ScoreMeta
from api.scores.pairs import Pairs, inputs_of
from common.errors import InvalidRequest
from common.wire import GenerationRequest, SamplingParams


def prepare_rerank(call: Call[RerankRequest]) -> Prepared[ScoreMeta]:
    """Long documents are cut, as Jina and Cohere do it. Raises InvalidRequest or ContextLengthExceeded."""
    body = call.body
    most = most_tokens(body, call.encoder.card.max_model_len)
    pairs = Pairs(
        [body.query],
        texts_of(body),
        ("query", "documents"),
        most_tokens=call.encoder.card.max_model_len if most is None else most,
        most_of_second=body.max_tokens_per_doc,
    )
    return prepared(call, pairs, top_n=body.top_n or len(pairs))


def prepare_score(call: Call[ScoreRequest]) -> Prepared[ScoreMeta]:
    """Long texts are cut only if the request says so. Raises InvalidRequest or ContextLengthExceeded."""
    return prepared(call, pairs_of(call.body, call.encoder.card.max_model_len), top_n=None)


def prepared(call: Call[Any], pairs: Pairs, top_n: int | None) -> Prepared[ScoreMeta]:
    body: Scored = call.body
    inputs = offload(inputs_of, pairs, call.encoder)
    meta = ScoreMeta(
        id=new_id("score-" if top_n is None else "rerank-"),
        model=body.model,
        created=int(time.time()),
        num_pairs=len(pairs),
        top_n=top_n,
    )
    request = GenerationRequest(
        id=meta.id,
        model=body.model,
        prompt_ids=tuple(token_id for ids in inputs.ids for token_id in ids),
        sampling=SamplingParams(max_tokens=0, seed=0),
        cache_salt=call.caller.owner,
        input_lengths=tuple(map(len, inputs.ids)),
        second_starts=inputs.second_starts,
        pairs=inputs.pairs,
    )
    options = QueueOptions(
        priority=body.priority or 0,
        timeout=body.timeout,
        not_before=body.not_before or 0.0,
        keep_alive_s=body.keep_alive,
    )
    return Prepared(meta, [request], options, kept_s=KEPT_S, vector_bytes=vector_bytes(1))


def texts_of(body: RerankRequest) -> list[str]:
    return [document if isinstance(document, str) else document.text for document in body.documents]


def pairs_of(body: ScoreRequest, most: int) -> Pairs:
    """Raises InvalidRequest unless one of the two spellings is there, with one first text or as many as second ones."""
    params = ("text_1", "text_2") if body.queries is None and body.documents is None else ("queries", "documents")
    first, second = getattr(body, params[0]), getattr(body, params[1])
    if first is None or second is None:
        param = params[0] if first is None else params[1]
        raise InvalidRequest(
            f"'{param}' is missing: send 'text_1' and 'text_2', or 'queries' and 'documents'.", param=param
        )
    if len(first) not in (1, len(second)):
        raise InvalidRequest(
            f"'{params[0]}' has {len(first)} texts and '{params[1]}' {len(second)}: send one for all, or one for each.",
            param=params[0],
        )
    return Pairs(first, second, params, most_tokens(body, most))


def most_tokens(body: Scored, most: int) -> int | None:
    """The length to which pairs are cut, if the request names one."""
    given = body.truncate_prompt_tokens
    return most if given == ALL_THAT_FITS else given
