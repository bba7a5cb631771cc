"""What outlives Redis's hour, in SQL: stored answers, conversations, files, batches, webhooks, usage."""
