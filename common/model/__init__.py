"""A model's folder, tokenizer and template, read without torch."""
