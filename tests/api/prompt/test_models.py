"""The served models, and how often their cards are read."""

from dataclasses import replace

from api.prompt.models import Models, describe
from common.redis import keys
from common.redis.store import Store
from common.wire_codec import encode_card
from tests.api.conftest import card, chat_tokenizer

CARD = card(chat_tokenizer(), names=("tiny", "small"))


def serve(redis, served):
    redis.set(keys.card_key(served.queue), encode_card(served))
    redis.hset(keys.QUEUES, mapping=dict.fromkeys(served.names, served.queue))
    redis.hset(keys.REVISIONS, served.queue, served.revision)


def test_a_card_is_read_once_for_all_names_and_requests(redis):
    serve(redis, replace(CARD, tokenizer=CARD.tokenizer + " " * 1_000_000))
    models = Models(Store(redis), ())
    assert [model["id"] for model in models.described()] == ["tiny", "small"]
    before = redis.info("stats")["total_net_output_bytes"]
    for _ in range(5):
        assert models.described()[0]["max_model_len"] == 4096
    models.encoder("small")
    assert redis.info("stats")["total_net_output_bytes"] - before < 50_000


def test_a_model_that_has_changed_gets_a_new_card(redis):
    serve(redis, CARD)
    models = Models(Store(redis), ())
    models.described()
    serve(redis, replace(CARD, revision="2", max_model_len=99))
    assert {model["max_model_len"] for model in models.described()} == {99}
    assert models.encoder("tiny").card.max_model_len == 99


def test_a_model_has_the_fields_of_both_apis(encoder):
    described = describe("tiny", encoder.card)
    assert (described["object"], described["type"], described["display_name"]) == ("model", "model", "tiny")
    assert described["created_at"] == "1970-01-01T00:00:00+00:00"
