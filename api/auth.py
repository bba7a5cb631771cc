"""Who is calling: the API key of a request -> its owner. Keys are compared as hashes, in constant time."""

import hmac
from dataclasses import dataclass

from flask import Request

from common.errors import OmniError, Unauthenticated
from common.keys import owner_of
from common.settings import Settings


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner of the jobs that this request makes or may see."""

    owner: str
    is_admin: bool


class KeyRing:
    """The keys that this service knows."""

    def __init__(self, settings: Settings) -> None:
        self._owners = tuple(owner_of(key) for key in settings.keys)
        self._admins = tuple(owner_of(key) for key in settings.admins)

    def caller(self, request: Request) -> Caller:
        """Raises Unauthenticated, with the same words for every cause."""
        owner = owner_of(presented_key(request))
        is_known = _is_among(owner, self._owners)
        is_admin = _is_among(owner, self._admins)
        if not (is_known or is_admin):
            raise Unauthenticated("Incorrect API key provided. Send a key of this server: 'Authorization: Bearer KEY'.")
        return Caller(owner, is_admin)

    def admin(self, request: Request) -> Caller:
        """Raises Unauthenticated, or OmniError `forbidden` for a key without that right."""
        caller = self.caller(request)
        if not caller.is_admin:
            raise OmniError("This needs an admin key (OMNI_ADMIN_KEYS).", code="forbidden")
        return caller


def presented_key(request: Request) -> str:
    """The key as OpenAI's clients send it, or as Anthropic's do."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else request.headers.get("x-api-key", "")


def _is_among(owner: str, known: tuple[str, ...]) -> bool:
    return any([hmac.compare_digest(owner, other) for other in known])
