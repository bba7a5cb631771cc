"""Work that outlives a request and needs no GPU: batches, webhooks, what is kept."""
