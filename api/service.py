"""What every route needs, built once per process and passed down."""

from dataclasses import dataclass, field

from api.auth import KeyRing
from api.body_room import BodyRoom
from api.hub import EventHub
from api.models import Models
from common.connection import connect
from common.grammar_check import GrammarCheck
from common.key_store import KeyStore
from common.settings import Settings
from common.store import Store


@dataclass(frozen=True, slots=True)
class Service:
    settings: Settings
    store: Store
    hub: EventHub
    models: Models
    keys: KeyRing
    grammars: GrammarCheck = field(default_factory=GrammarCheck)
    bodies: BodyRoom = field(default_factory=BodyRoom)


def build_service(settings: Settings) -> Service:
    redis = connect(settings.redis)
    store = Store(redis, max_queue=settings.max_queue, ttl_s=settings.result_ttl, failure_ttl_s=settings.failure_ttl)
    return Service(
        settings,
        store,
        EventHub(store, redis, settings.queue),
        Models(store, settings.served_names, settings.embedding_names),
        KeyRing(settings, KeyStore(redis)),
    )
