"""What can be read from a model's folder or tokenizer without torch."""
