"""/v1/webhook_endpoints: where a key's events are sent."""
