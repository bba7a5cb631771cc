"""Models in GGUF files: configuration, tokenizer and weights, which stay packed."""
