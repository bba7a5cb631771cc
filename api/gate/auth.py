"""API key of a request -> its owner. Keys are compared as hashes, in constant time."""

import hmac
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from flask import Request
from redis.exceptions import RedisError

from common.errors import Forbidden, Unauthenticated
from common.redis.key_store import KeyStore, digest_of
from common.redis.keys import owner_of
from common.settings import Settings

logger = logging.getLogger("omni.api")

REFRESH_S = 0.9
NEW_KEY_S = 0.02  # the managed keys are read again for an unknown key at most this often
INDEX_LENGTH = 32  # characters of a digest


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner of the jobs that this request creates or may see."""

    owner: str
    is_admin: bool


class KeyRing:
    """The known keys: those of the settings, and those that `omni keys` manages in Redis.

    Managed keys are read again within a second of a change, and at once for an unknown key, which may be new. While
    Redis is unreachable, the last keys read stay valid.
    """

    def __init__(self, settings: Settings, store: KeyStore) -> None:
        self._store = store
        keys, admins = settings.server.api_keys, settings.server.admins
        self._fixed = indexed((digest_of(key), Caller(owner_of(key), is_admin=False)) for key in keys)
        self._fixed |= indexed((digest_of(key), Caller(owner_of(key), is_admin=True)) for key in admins)
        self._callers = self._fixed
        self._fixed_names = {owner_of(key): f"admin {number}" for number, key in enumerate(admins, 1)}
        self._fixed_names |= {owner_of(key): f"key {number}" for number, key in enumerate(keys, 1)}
        self._names = self._fixed_names
        self._version = -1
        self._looked = float("-inf")

    def caller(self, request: Request) -> Caller:
        """Raises Unauthenticated, with the same message for every cause."""
        self.refresh()
        digest = digest_of(presented_key(request))
        found = self._callers.get(digest[:INDEX_LENGTH])
        if found is None:
            self.refresh(NEW_KEY_S)
            found = self._callers.get(digest[:INDEX_LENGTH])
        if found is None or not hmac.compare_digest(found[0], digest):
            raise Unauthenticated("Incorrect API key provided. Send a key of this server: 'Authorization: Bearer KEY'.")
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

    def refresh(self, max_age_s: float = REFRESH_S) -> None:
        """Read the managed keys again if they are older than `max_age_s` and have changed."""
        if time.monotonic() - self._looked < max_age_s:
            return
        try:
            version = self._store.version()
            if version != self._version:
                records = self._store.all()
                managed = ((record.digest, Caller(record.owner, bool(record.limits.admin))) for record in records)
                self._callers = indexed(managed) | self._fixed
                self._names = self._fixed_names | {record.owner: record.name for record in records}
                self._version = version
        except RedisError as error:
            logger.warning("cannot read the managed keys (%s)", type(error).__name__)
        self._looked = time.monotonic()


def indexed(callers: Iterable[tuple[str, Caller]]) -> dict[str, tuple[str, Caller]]:
    """Callers by the first half of their digest; the whole digest is compared in constant time later."""
    return {digest[:INDEX_LENGTH]: (digest, caller) for digest, caller in callers}


def presented_key(request: Request) -> str:
    """The key as OpenAI's clients send it, as Anthropic's do, or as Azure's do."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return bearer or request.headers.get("x-api-key", "") or request.headers.get("api-key", "")
