"""Messages and texts -> token ids, by the served model's own template and tokenizer. No torch."""
