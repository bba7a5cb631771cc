"""cohere's two clients, asking a real embedder to rank."""

import json
from typing import Any
from urllib.request import Request, urlopen

import cohere
from checks import KEY, MODEL, URL, run

QUERY = "someone is eating food"
DOCUMENTS = ["The stock market fell sharply today.", "A man eats a meal.", "A monkey plays drums."]

client = cohere.ClientV2(KEY, base_url=URL)
old_client = cohere.Client(KEY, base_url=URL)


def post(path: str, **body: Any) -> Any:
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    with urlopen(Request(URL + path, json.dumps({"model": MODEL} | body).encode(), headers), timeout=60) as answer:
        return json.load(answer)


def the_meal_is_nearest_to_eating_food() -> None:
    ranked = client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS)
    assert [result.index for result in ranked.results][0] == 1 and len(ranked.results) == 3
    scores = [result.relevance_score for result in ranked.results]
    assert scores == sorted(scores, reverse=True) and scores[0] > 0.5 > scores[1], scores
    assert ranked.id and ranked.meta and ranked.meta.tokens and ranked.meta.tokens.input_tokens


def a_ranking_may_be_short_and_documents_cut() -> None:
    ranked = client.rerank(
        model=MODEL, query=QUERY, documents=[*DOCUMENTS, "word " * 5000], top_n=2, max_tokens_per_doc=9
    )
    assert len(ranked.results) == 2


def the_older_client_takes_objects_and_gets_documents() -> None:
    documents: list[Any] = [{"text": text} for text in DOCUMENTS]
    ranked = old_client.rerank(model=MODEL, query=QUERY, documents=documents, top_n=1, return_documents=True)
    [best] = ranked.results
    assert best.document and best.document.text == DOCUMENTS[1]


def scores_are_the_cosines_of_the_vectors() -> None:
    data = post("/v1/embeddings", input=[QUERY, *DOCUMENTS])["data"]
    query, *others = (item["embedding"] for item in data)
    cosines = [sum(a * b for a, b in zip(query, other, strict=True)) for other in others]
    scores = [item["score"] for item in post("/v1/score", text_1=QUERY, text_2=DOCUMENTS)["data"]]
    assert max(abs(a - b) for a, b in zip(cosines, scores, strict=True)) < 1e-5, (cosines, scores)
    assert max(cosines) == cosines[1]


def a_wrong_request_is_an_error_of_the_client() -> None:
    try:
        client.rerank(model="rerank-v4.0-pro", query=QUERY, documents=DOCUMENTS)
    except cohere.NotFoundError as error:
        assert MODEL in str(error.body), error.body
    else:
        raise AssertionError("an unknown model ranks")
    try:
        old_client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, max_chunks_per_doc=10)
    except cohere.BadRequestError as error:
        assert "max_chunks_per_doc" in str(error.body), error.body
    else:
        raise AssertionError("chunks are ignored")


run(
    the_meal_is_nearest_to_eating_food,
    a_ranking_may_be_short_and_documents_cut,
    the_older_client_takes_objects_and_gets_documents,
    scores_are_the_cosines_of_the_vectors,
    a_wrong_request_is_an_error_of_the_client,
)
