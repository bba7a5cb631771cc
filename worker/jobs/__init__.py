"""The worker's jobs: claims from the queue, heartbeat, the log of events, telemetry. Knows RQ and Redis, no model."""
