"""Encoder models as an engine: texts to vectors."""
