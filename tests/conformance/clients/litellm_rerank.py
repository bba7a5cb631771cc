"""litellm's rerank by its providers for Jina and vLLM, and openai's embeddings, with a real embedder."""

import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network for prices before anything else

import litellm
from checks import KEY, MODEL, URL, run
from openai import OpenAI

litellm.telemetry = False
litellm.suppress_debug_info = True
QUERY = "someone is eating food"
DOCUMENTS = ["The stock market fell sharply today.", "A man eats a meal.", "A monkey plays drums."]


def ranked(provider: str, address: str, **options: Any) -> Any:
    common = {"api_base": address, "api_key": KEY, "query": QUERY, "documents": DOCUMENTS}
    return litellm.rerank(model=f"{provider}/{MODEL}", **common, **options)


def jinas_provider_reads_the_ranking() -> None:
    answer = ranked("jina_ai", f"{URL}/v1/rerank", top_n=2, return_documents=True)
    assert [result["index"] for result in answer.results][0] == 1 and len(answer.results) == 2
    assert answer.results[0]["document"]["text"] == DOCUMENTS[1]


def vllms_provider_reads_the_ranking() -> None:
    answer = ranked("hosted_vllm", f"{URL}/v1", top_n=3)
    assert [result["index"] for result in answer.results][0] == 1 and len(answer.results) == 3


def embeddings_have_the_same_order() -> None:
    client = OpenAI(base_url=f"{URL}/v1", api_key=KEY)
    query, *others = (item.embedding for item in client.embeddings.create(model=MODEL, input=[QUERY, *DOCUMENTS]).data)
    cosines = [sum(a * b for a, b in zip(query, other, strict=True)) for other in others]
    assert max(cosines) == cosines[1] and len(query) == 384


run(jinas_provider_reads_the_ranking, vllms_provider_reads_the_ranking, embeddings_have_the_same_order)
