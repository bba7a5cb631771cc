"""The web process: OpenAI-compatible HTTP in front of the queue. Never imports torch or the worker."""
