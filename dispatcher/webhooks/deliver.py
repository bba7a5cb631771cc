"""One delivery, one attempt: read what is to be sent, send it, record what came of it.

SQL says whether and when an attempt is due, so that a job that RQ runs twice, late or after Redis was emptied sends
nothing twice without need, and the attempt of a killed worker is made again.
"""

import logging
import random
import time
from dataclasses import dataclass

from common.records.database import Connection, Records
from common.records.deliveries import (
    Attempt,
    Wait,
    begin_attempt,
    block_endpoint,
    count_failure,
    disable_endpoint,
    end_failure,
    end_success,
    try_again,
)
from common.webhooks.addresses import AddressRules
from common.webhooks.events import event_body
from common.webhooks.sender import GONE, SendResult, send
from common.webhooks.signatures import signed_headers
from dispatcher.webhooks.schedule import Schedule

logger = logging.getLogger("omni.webhooks")

SLOW_S = 2.0  # a receiver that takes longer gets a pause as long as its answer took


@dataclass(frozen=True, slots=True)
class Deliverer:
    records: Records
    rules: AddressRules
    schedule: Schedule

    def deliver(self, delivery_id: str) -> float | None:
        """Make the attempt if it is due. Returns the seconds until the next one; None: there is none."""
        with self.records.begin() as connection:
            found = begin_attempt(connection, delivery_id, time.time(), self.schedule.lease_s, random.random())
        if found is None or isinstance(found, Wait):
            return None if found is None else found.seconds
        body = event_body(found.event_id, found.event_created, found.event_type, found.data)
        headers = signed_headers(found.event_id, body, found.secrets)
        outcome = send(found.url, body, headers, self.rules, self.schedule.timeout_s)
        with self.records.begin() as connection:
            return self._record(connection, found, outcome, time.time())

    def _record(self, connection: Connection, attempt: Attempt, outcome: SendResult, now: float) -> float | None:
        if outcome.is_success:
            pause_s = outcome.seconds if outcome.seconds > SLOW_S else 0.0
            end_success(connection, attempt, outcome.status_code or 0, now, now + pause_s)
            return None
        logger.info("webhook %s to %s: %s", attempt.delivery_id, attempt.endpoint_id, outcome.error)
        result = {"status_code": outcome.status_code, "error": outcome.error}
        since, failures = count_failure(connection, attempt, now)
        if why := self._end_of_endpoint(outcome, since, now):
            disable_endpoint(connection, attempt.endpoint_id, why, now)
            end_failure(connection, attempt, result, now)
            logger.warning("webhook endpoint %s is disabled: %s", attempt.endpoint_id, why)
            return None
        block_endpoint(connection, attempt.endpoint_id, since, failures, now + self.schedule.block_s(failures))
        if now - attempt.began >= self.schedule.give_up_s:
            end_failure(connection, attempt, result, now)
            return None
        last = attempt.began + self.schedule.give_up_s  # one attempt is made at the very end
        due = min(now + self.schedule.pause_s(attempt.number), max(last, now + 1))
        try_again(connection, attempt, result, due)
        return due - now

    def _end_of_endpoint(self, outcome: SendResult, since: float, now: float) -> str:
        """Why the endpoint gets nothing more; empty while it does."""
        if outcome.status_code == GONE:
            return "HTTP 410: the receiver wants no more events"
        if now - since >= self.schedule.give_up_s:
            return f"no delivery succeeded for {self.schedule.give_up_s / 3600:.3g} hours; the last: {outcome.error}"
        return ""
