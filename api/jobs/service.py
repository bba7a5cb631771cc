"""The parts that every route needs; built once per process and passed to the routes."""

from dataclasses import dataclass, field

from api.audit import AuditLog
from api.gate.auth import KeyRing
from api.gate.body_room import BodyRoom
from api.jobs.hub import EventHub
from api.process.memory import SpareMemory
from api.process.redis_seams import GreenParser
from api.prompt.models import Models
from common.files.storage import FileStorage
from common.grammar.check import GrammarCheck
from common.records.database import Records
from common.redis.connection import connect
from common.redis.key_store import KeyStore
from common.redis.metrics import SERVICE, Tally
from common.redis.store import Store
from common.settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    settings: Settings
    store: Store
    hub: EventHub
    models: Models
    keys: KeyRing
    records: Records  # only in in_store_thread(): SQL would stop all streams of this process
    files: FileStorage  # only in in_file_thread()
    audit: AuditLog
    grammars: GrammarCheck = field(default_factory=GrammarCheck)
    bodies: BodyRoom = field(default_factory=BodyRoom)
    tally: Tally = field(default_factory=lambda: Tally(SERVICE))
    spare: SpareMemory = field(default_factory=SpareMemory)

    @property
    def queue(self) -> str:
        """Of the model that is asked when none is named: the only one, or the table's first."""
        models = self.settings.models
        return models[0].queue if models else self.settings.model.queue

    def start(self) -> None:
        """Start the hub's greenlets. Call once per process, after the fork."""
        self.hub.start(periodic_tasks=(self.keys.refresh, self._flush_tally, self.spare.give_back))

    def _flush_tally(self) -> None:
        self.tally.flush(self.store.redis)


def expected_ids(settings: Settings) -> dict[str, str]:
    """Id -> queue of the models that generate, or of the table's."""
    models = settings.models
    of_table = {name: model.queue for model in models for name in model.ids}
    return of_table or dict.fromkeys(settings.model.names, settings.model.queue)


def build_service(settings: Settings) -> Service:
    redis = connect(settings.redis.url, parser_class=GreenParser)
    keys, records = KeyRing(settings, KeyStore(redis)), Records(settings.store_url)
    store = Store(redis, max_queue=settings.limits.max_queue, ttl_s=settings.limits.result_ttl)
    return Service(
        settings,
        store,
        EventHub(store, redis),
        Models(store, expected_ids(settings), settings.embedding.names, is_table=bool(settings.models)),
        keys,
        records,
        FileStorage(settings.files_url),
        AuditLog(records, keys),
    )
