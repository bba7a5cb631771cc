"""What admin keys change, into the audit log."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import g, request

from api.gate.auth import Caller, KeyRing
from api.process.offload import in_store_thread
from common.records.audit import AuditedChange, recorded
from common.records.database import Records


class AuditLog:
    """Written before each change and told of its outcome; while the store is away, admin keys change nothing."""

    def __init__(self, records: Records, keys: KeyRing) -> None:
        self._records = records
        self._keys = keys

    @contextmanager
    def change(self, caller: Caller, action: str, target: str, *, of: str = "", **details: Any) -> Iterator[None]:
        """The change happens inside. Only those of admin keys are recorded, and of these only what the admin's right
        is needed for: `of` is the owner, where the caller may change its own.

        Raises StoreError before the change.
        """
        if not caller.is_admin or of == caller.owner:
            yield
            return
        change = AuditedChange(
            actor=self._keys.name_of(caller.owner),
            action=action,
            target=target,
            details=({"of": self._keys.name_of(of)} if of else {})
            | {k: v for k, v in details.items() if v is not None},
            key_id=caller.owner,
            address=request.remote_addr or "",
            forwarded=request.headers.get("X-Forwarded-For", ""),
            request_id=g.get("request_id", ""),
        )
        with recorded(self._records, change, in_store_thread):
            yield
