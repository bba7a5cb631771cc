"""Webhooks: events out of the outbox, and their deliveries, which RQ carries and SQL remembers."""
