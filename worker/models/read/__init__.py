"""Reads a model's configuration and tokenizer, also where transformers would run the model's own code for it."""
