"""Secrets and signatures by the rules of Standard Webhooks."""

import base64
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime

from standardwebhooks import Webhook

SECRET_PREFIX = "whsec_"
SECRET_BYTES = 32  # the standard: from 24 to 64
HINT_LENGTH = 4  # characters of a secret that are shown later


def new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def hint_of(secret: str) -> str:
    return f"{SECRET_PREFIX}...{secret[-HINT_LENGTH:]}"


def signed_headers(event_id: str, body: bytes, secrets: Sequence[str], now: float | None = None) -> dict[str, str]:
    """The headers of one attempt, with one signature for each secret that is valid. `now`: unix seconds."""
    at = datetime.fromtimestamp(int(time.time() if now is None else now), UTC)
    signatures = [Webhook(secret).sign(event_id, at, body.decode()) for secret in secrets]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
