"""What this service says of itself and of its work, as it is sent: for /openapi.json and for tests."""
