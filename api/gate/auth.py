"""API key of a request -> its owner. Keys are compared as hashes, in constant time."""

import hmac
import logging
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flask import Request
from redis import Redis
from redis.exceptions import RedisError

from api.gate.notes import note_caller
from common.errors import Forbidden, InvalidRequest, Unauthenticated
from common.redis.dispatch.internal import internal_secret
from common.redis.key_store import KeyLimits, KeyRecord, KeyStore
from common.redis.keys import digest_of, owner_of
from common.settings import Settings
from common.wire import TIERS, Tier

logger = logging.getLogger("omni.api")

REFRESH_S = 0.9
NEW_KEY_S = 0.02  # the managed keys are read again for an unknown key at most this often
INDEX_LENGTH = 32  # characters of a digest
ACT_AS, BATCH = "Omni-Act-As", "Omni-Batch"  # headers of the dispatcher: the owner of a batch's line, and the batch
SEND_A_KEY = "Send a key of this server: 'Authorization: Bearer KEY'."
OWNER = re.compile(r"[0-9a-f]{32}")
ANY_TIER = ("auto", "standard_only")  # OpenAI's and Anthropic's words for no tier in particular
SAME_TIER: Mapping[str, Tier] = MappingProxyType({"fast": "priority"})  # as at OpenAI


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner of the jobs that this request creates or may see."""

    owner: str
    is_admin: bool
    batch: str = ""  # the dispatcher sends a line of this batch for its owner
    tiers: tuple[Tier, ...] = KeyLimits().allowed_tiers  # that it may use

    def tier(self, asked: str | None) -> Tier:
        """The tier of a request with this `service_tier`. Raises InvalidRequest for one that the key may not use."""
        if self.batch:
            return "flex"
        if asked is None or asked in ANY_TIER:
            return "default" if "default" in self.tiers else self.tiers[0]
        for tier in self.tiers:
            if tier == SAME_TIER.get(asked, asked):
                return tier
        raise InvalidRequest(
            f"'service_tier': this key may use {' or '.join(self.tiers)}; leave it out, or let an operator allow "
            f"more (omni keys limits NAME --tiers ...).",
            param="service_tier",
        )


class InternalKey:
    """The secret that the dispatcher shows to act for an owner, read from Redis when a request shows one."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._digest = ""
        self._looked = float("-inf")

    def is_shown(self, request: Request) -> bool:
        """Compares in constant time. Reads the secret again for another one, but seldom."""
        digest = digest_of(presented_key(request))
        if not self._matches(digest) and time.monotonic() - self._looked > NEW_KEY_S:
            self._looked = time.monotonic()
            try:
                secret = internal_secret(self._redis)
                self._digest = digest_of(secret) if secret else ""
            except RedisError as error:
                logger.warning("cannot read the dispatcher's secret (%s)", type(error).__name__)
        return self._matches(digest)

    def _matches(self, digest: str) -> bool:
        return bool(self._digest) and hmac.compare_digest(self._digest, digest)


class KeyRing:
    """The known keys: those of the settings, and those that `omni keys` manages in Redis.

    Managed keys are read again within a second of a change, and at once for an unknown key, which may be new. While
    Redis is unreachable, the last keys read stay valid.
    """

    def __init__(self, settings: Settings, store: KeyStore) -> None:
        self._store = store
        self._internal = InternalKey(store.redis)
        keys, admins = settings.server.api_keys, settings.server.admins
        self._fixed = indexed((digest_of(key), Caller(owner_of(key), is_admin=False)) for key in keys)
        self._fixed |= indexed((digest_of(key), Caller(owner_of(key), is_admin=True, tiers=TIERS)) for key in admins)
        self._callers = self._fixed
        self._fixed_names = {owner_of(key): f"admin {number}" for number, key in enumerate(admins, 1)}
        self._fixed_names |= {owner_of(key): f"key {number}" for number, key in enumerate(keys, 1)}
        self._names = self._fixed_names
        self._version = -1
        self._looked = float("-inf")

    def caller(self, request: Request) -> Caller:
        """Raises Unauthenticated, the same for every wrong key. Without the secret ACT_AS means nothing."""
        caller = self._caller(request)
        note_caller(caller.owner)
        return caller

    def _caller(self, request: Request) -> Caller:
        owner = request.headers.get(ACT_AS, "")
        if OWNER.fullmatch(owner) and self._internal.is_shown(request):
            return Caller(owner, is_admin=False, batch=request.headers.get(BATCH, ""))
        self.refresh()
        key = presented_key(request)
        if not key:
            raise Unauthenticated(f"No API key was sent. {SEND_A_KEY}")
        digest = digest_of(key)
        found = self._callers.get(digest[:INDEX_LENGTH])
        if found is None:
            self.refresh(NEW_KEY_S)
            found = self._callers.get(digest[:INDEX_LENGTH])
        if found is None or not hmac.compare_digest(found[0], digest):
            raise Unauthenticated(f"Incorrect API key provided. {SEND_A_KEY}")
        return found[1]

    def admin(self, request: Request) -> Caller:
        """Raises Unauthenticated, or Forbidden for a key that is not an admin's."""
        caller = self.caller(request)
        if not caller.is_admin:
            raise Forbidden("This needs an admin key (OMNI_ADMIN_KEYS).")
        return caller

    def name_of(self, owner: str) -> str:
        """A managed key's name, the number of a key of the settings, or else the hash. For operators only."""
        return self._names.get(owner, owner)

    def names(self) -> Mapping[str, str]:
        """The names of all keys that exist, by owner."""
        return self._names

    def owner_named(self, name: str) -> str | None:
        """The owner of the key that name_of() names so."""
        return next((owner for owner, known in self._names.items() if known == name), None)

    def refresh(self, max_age_s: float = REFRESH_S) -> None:
        """Read the managed keys again if they are older than `max_age_s` and have changed."""
        if time.monotonic() - self._looked < max_age_s:
            return
        try:
            version = self._store.version()
            if version != self._version:
                records = self._store.all()
                managed = ((record.digest, managed_caller(record)) for record in records)
                self._callers = indexed(managed) | self._fixed
                self._names = self._fixed_names | {record.owner: record.name for record in records}
                self._version = version
        except RedisError as error:
            logger.warning("cannot read the managed keys (%s)", type(error).__name__)
        self._looked = time.monotonic()


def managed_caller(record: KeyRecord) -> Caller:
    return Caller(record.owner, bool(record.limits.admin), tiers=record.limits.allowed_tiers)


def indexed(callers: Iterable[tuple[str, Caller]]) -> dict[str, tuple[str, Caller]]:
    """Callers by the first half of their digest; the whole digest is compared in constant time later."""
    return {digest[:INDEX_LENGTH]: (digest, caller) for digest, caller in callers}


def presented_key(request: Request) -> str:
    """The key as OpenAI's clients send it, as Anthropic's do, or as Azure's do."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return bearer or request.headers.get("x-api-key", "") or request.headers.get("api-key", "")
