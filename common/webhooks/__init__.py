"""Webhooks: what an event is, how a delivery is signed, and where it may be sent."""
