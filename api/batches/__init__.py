"""/v1/batches and /v1/messages/batches: many requests in one file, which the dispatcher works off."""
