"""A caller's webhook endpoints in SQL, and their objects on the wire. Every call of SQL runs in a thread."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import uuid4

from api.gate.auth import Caller
from api.jobs.service import Service
from api.process.offload import in_store_thread
from api.webhooks.schema import CreateWebhookRequest, UpdateWebhookRequest
from common.errors import AddressRefused, Conflict, Forbidden, InvalidRequest, NotFound
from common.records import webhooks
from common.records.database import Connection
from common.webhooks.addresses import AddressRules
from common.webhooks.events import event_body, sample_data
from common.webhooks.sender import send
from common.webhooks.signatures import hint_of, new_secret, signed_headers

MAX_ENDPOINTS = 20  # of one key

T = TypeVar("T")


class WebhookStore:
    """`row` is an endpoint that the caller may see: an admin key sees those of all keys."""

    def __init__(self, service: Service) -> None:
        self._records = service.records
        self._rules = AddressRules.of(service.settings.store.webhook_hosts)

    def create(self, caller: Caller, body: CreateWebhookRequest) -> Any:
        """Raises Forbidden, InvalidRequest or Conflict."""
        if body.scope == "all" and not caller.is_admin:
            raise Forbidden("Only an admin key (OMNI_ADMIN_KEYS) may have the events of all keys sent.")
        self._check_url(body.url)
        values = {
            "owner": caller.owner,
            "scope": body.scope,
            "name": body.name,
            "url": body.url,
            "event_types": list(dict.fromkeys(body.event_types)),
            "secret": new_secret(),
            **_switched(is_off=bool(body.disabled)),
        }

        def add(connection: Connection) -> Any:
            if webhooks.num_endpoints(connection, caller.owner) >= MAX_ENDPOINTS:
                raise Conflict(f"This key has {MAX_ENDPOINTS} webhook endpoints, the most there may be; delete one.")
            return webhooks.add_endpoint(connection, values)

        return self._write(add)

    def page(self, caller: Caller, limit: int, after: str) -> Sequence[Any]:
        last = self.found(caller, after) if after else None
        return self._read(lambda connection: webhooks.endpoints_of(connection, _seen_by(caller), limit, last))

    def found(self, caller: Caller, endpoint_id: str) -> Any:
        """Raises NotFound."""
        row = self._read(lambda connection: webhooks.endpoint_of(connection, _seen_by(caller), endpoint_id))
        if row is None:
            raise NotFound(f"No webhook endpoint with the id '{endpoint_id[:100]}'.")
        return row

    def update(self, row: Any, body: UpdateWebhookRequest) -> Any:
        """Raises InvalidRequest. What is not sent stays; enabling forgets earlier failures."""
        if body.scope not in (None, row.scope):
            raise InvalidRequest("'scope' cannot be changed; create another endpoint.", param="scope")
        changes: dict[str, Any] = body.model_dump(include={"name", "url", "event_types"}, exclude_none=True)
        if body.url is not None:
            self._check_url(body.url)
        if body.event_types is not None:
            changes["event_types"] = list(dict.fromkeys(body.event_types))
        if body.disabled is not None and body.disabled != (row.disabled is not None):
            changes |= _switched(is_off=body.disabled)
        if not changes:
            return row
        return self._write(lambda connection: webhooks.change_endpoint(connection, row.id, changes))

    def rotate(self, row: Any, *, keep_old: bool) -> Any:
        secret = new_secret()
        return self._write(lambda connection: webhooks.rotate_secret(connection, row.id, secret, keep_old=keep_old))

    def remove(self, row: Any) -> None:
        self._write(lambda connection: webhooks.remove_endpoint(connection, row.id))

    def test(self, row: Any, event_type: str) -> int:
        """Send a sample now; a success ends the endpoint's failure. Returns the receiver's status, whatever it is.

        Raises InvalidRequest without an answer.
        """
        event_id, now = f"evt_test_{uuid4().hex}", time.time()
        body = event_body(event_id, now, event_type, sample_data(event_type))
        headers = signed_headers(event_id, body, webhooks.valid_secrets(row, now))
        result = send(row.url, body, headers, self._rules)
        if result.status_code is None:
            raise InvalidRequest(f"The endpoint gave no answer: {result.error}")
        if result.is_success and row.failing_since is not None:
            self._write(lambda connection: webhooks.forget_failures(connection, row.id))
        return result.status_code

    def deliveries(self, row: Any, limit: int, after: str) -> Sequence[Any]:
        last = self._delivery(row, after) if after else None
        return self._read(lambda connection: webhooks.deliveries_of(connection, row.id, limit, last))

    def redeliver(self, row: Any, delivery_id: str) -> Any:
        """Raises NotFound, or Conflict for a disabled endpoint."""
        if row.disabled is not None:
            raise Conflict("The endpoint is disabled; enable it first.")
        self._delivery(row, delivery_id)
        self._write(lambda connection: webhooks.deliver_again(connection, row.id, delivery_id))
        return self._delivery(row, delivery_id)

    def _delivery(self, row: Any, delivery_id: str) -> Any:
        found = self._read(lambda connection: webhooks.delivery_of(connection, row.id, delivery_id))
        if found is None:
            raise NotFound(f"No delivery with the id '{delivery_id[:100]}' to this endpoint.")
        return found

    def _check_url(self, url: str) -> None:
        try:
            self._rules.target(url)
        except AddressRefused as refused:
            raise InvalidRequest(refused.message, param="url") from None

    def _read(self, ask: Callable[[Connection], T]) -> T:
        def run() -> T:
            with self._records.read() as connection:
                return ask(connection)

        return in_store_thread(run)

    def _write(self, change: Callable[[Connection], T]) -> T:
        def run() -> T:
            with self._records.begin() as connection:
                return change(connection)

        return in_store_thread(run)


def _seen_by(caller: Caller) -> str | None:
    return None if caller.is_admin else caller.owner


def _switched(*, is_off: bool) -> dict[str, Any]:
    return {"disabled": time.time(), "disabled_why": webhooks.BY_OWNER} if is_off else {"disabled": None}


def endpoint_object(row: Any) -> dict[str, Any]:
    """Without the secret."""
    return {
        "id": row.id,
        "object": "webhook_endpoint",
        "created_at": int(row.created),
        "updated_at": int(row.updated),
        "name": row.name,
        "url": row.url,
        "event_types": row.event_types,
        "signing_secret_hint": hint_of(row.secret),
        "scope": row.scope,
        "disabled": row.disabled is not None,
        "disabled_reason": row.disabled_why,
        "failing_since": _seconds(row.failing_since),
    }


def delivery_object(row: Any) -> dict[str, Any]:
    return {
        "id": row.id,
        "object": "webhook_delivery",
        "event_id": row.event_id,
        "event_type": row.event_type,
        "data": row.event_data,
        "status": row.state,
        "attempts": row.attempts,
        "created_at": int(row.created),
        "last_attempt_at": _seconds(row.attempted),
        "next_attempt_at": int(row.due) if row.state == "pending" else None,
        "status_code": row.status_code,
        "error": row.error,
    }


def _seconds(moment: float | None) -> int | None:
    return None if moment is None else int(moment)
