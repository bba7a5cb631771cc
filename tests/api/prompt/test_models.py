"""The served models, and how often their cards are read."""

import json
from dataclasses import replace

import pytest

from api.prompt.models import Models, describe
from common.errors import ModelNotFound
from common.redis import keys
from common.redis.served.adapters import AdapterRecord
from common.redis.store import Store
from tests.api.conftest import card, chat_tokenizer
from worker.jobs.ledger import Ledger

CARD = card(chat_tokenizer(), names=("tiny", "small"))
TINY = {"tiny": "tiny"}


def serve(redis, served):
    Ledger(redis, served.queue, "worker").publish_card(served)


def test_a_card_is_read_once_for_all_names_and_requests(redis):
    serve(redis, replace(CARD, tokenizer=CARD.tokenizer + " " * 1_000_000))
    models = Models(Store(redis), {})
    assert [model["id"] for model in models.described()] == ["tiny", "small"]
    before = redis.info("stats")["total_net_output_bytes"]
    for _ in range(5):
        assert models.described()[0]["max_model_len"] == 4096
    models.encoder("small")
    assert redis.info("stats")["total_net_output_bytes"] - before < 50_000


@pytest.mark.parametrize("change", [{"revision": "2", "max_model_len": 99}, {"max_model_len": 99}])
def test_a_model_that_has_changed_gets_a_new_card(redis, change):
    """Of the same files, too: memory or a setting may make the context shorter."""
    serve(redis, CARD)
    models = Models(Store(redis), {})
    models.described()
    serve(redis, replace(CARD, **change))
    assert {model["max_model_len"] for model in models.described()} == {99}
    assert models.encoder("tiny").card.max_model_len == 99


def test_the_models_of_the_settings_come_first(redis):
    """Before those of an earlier start with another model, whose cards are still there."""
    serve(redis, replace(CARD, queue="old", names=("old",)))
    serve(redis, CARD)
    models = Models(Store(redis), {"small": "tiny", "tiny": "tiny"})
    assert [model["id"] for model in models.described()] == models.names() == ["small", "tiny", "old"]


def test_answers_of_a_model_that_left_the_table_are_still_read(redis):
    serve(redis, CARD)
    models = Models(Store(redis), {"other": "other"}, is_table=True)
    with pytest.raises(ModelNotFound):
        models.encoder(CARD.queue)
    assert models.encoder_of_answers(CARD.queue).card.max_model_len == 4096
    with pytest.raises(ModelNotFound):
        models.encoder_of_answers("never")


def test_what_was_read_of_a_model_that_is_gone_is_dropped_when_another_is_read(redis):
    """Those of the settings and of live workers stay, whatever is read beside them."""
    for queue in ("a", "b", "mine", "live"):
        serve(redis, replace(CARD, queue=queue, names=(queue,)))
    Ledger(redis, "live", worker_name="w").register()
    models = Models(Store(redis), {"mine": "mine"})
    for queue in ("mine", "live", "a", "b"):
        models.encoder(queue, task=None)
    assert models._encoders.keys() == {"mine", "live", "b"}
    assert models.encoder_of_answers("a").card.queue == "a"
    assert models._encoders.keys() == {"mine", "live", "a"}
    of_table = Models(Store(redis), {"mine": "mine"}, is_table=True)
    for queue in ("mine", "a", "b"):
        of_table.encoder_of_answers(queue)
    assert of_table._cards.keys() == {"mine", "b"}


def test_an_adapter_that_a_live_worker_could_not_load_is_not_listed(redis):
    """As when another model is served under the same id."""
    serve(redis, CARD)
    models, queue = Models(Store(redis), {}), CARD.queue
    models.adapters.add(AdapterRecord("sql", queue, "/models/sql", number=1, created=5, revision="aa"))
    for fence, faults in (("1", {}), ("2", {"sql": "has other matrices"}), ("2", {})):
        report = json.dumps({"version": 1, "revisions": {}, "faults": faults})
        redis.zadd(keys.WORKERS, {fence: int(fence)})
        redis.hset(keys.worker_key(fence), mapping={"queue": queue, "adapters": report})
        assert ("sql" in models.names()) is (not faults)
        assert ("sql" in [model["id"] for model in models.described()]) is (not faults)


def test_a_model_has_the_fields_of_both_apis(encoder):
    described = describe("tiny", encoder.card)
    assert (described["object"], described["type"], described["display_name"]) == ("model", "model", "tiny")
    assert described["created_at"] == "1970-01-01T00:00:00+00:00"


def test_a_model_is_refused_for_what_it_does_not_do_and_others_are_named(redis):
    models = Models(Store(redis), TINY, ("ranker",))
    serve(redis, CARD)
    refused = {
        ("tiny", "embed"): "makes no embeddings; this server has vectors.",
        ("tiny", "score"): "scores no texts; this server has ranker, vectors.",
        ("ranker", "embed"): "is a cross-encoder: it scores pairs of texts, at /v1/rerank and /v1/score, and does "
        "nothing else; this server has vectors.",
        ("ranker", "generate"): "is a cross-encoder: it scores pairs of texts, at /v1/rerank and /v1/score, and does "
        "nothing else; for text this server has small, tiny.",
        ("vectors", "generate"): "makes embeddings only; for text this server has small, tiny.",
    }
    for name, task in (("ranker", "score"), ("vectors", "embed")):
        serve(redis, replace(CARD, queue=name, names=(name,), task=task))
    for (name, task), sentence in refused.items():
        with pytest.raises(ModelNotFound) as found:
            models.encoder(name, task)
        assert found.value.message == f"The model {name!r} {sentence}"
    assert models.encoder("vectors", "score") and models.encoder("ranker", "score")


def test_without_an_encoder_the_setting_is_named(redis):
    serve(redis, CARD)
    for task in ("embed", "score"):
        with pytest.raises(ModelNotFound, match="Set OMNI_EMBEDDING_MODEL to an encoder"):
            Models(Store(redis), TINY).encoder("tiny", task)
    with pytest.raises(ModelNotFound, match="makes no embeddings; this server has ranker"):
        Models(Store(redis), TINY, ("ranker",)).encoder("tiny", "embed")  # it has not loaded yet
