"""A line that is sent again is a new request."""

import sys
from unittest.mock import patch
from uuid import uuid4

from dispatcher.main import main

if __name__ == "__main__":
    with patch("dispatcher.batches.client.idempotency_key", lambda *_: uuid4().hex):
        sys.exit(main())
