"""What a client is told while its job waits."""
