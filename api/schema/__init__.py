"""Request and answer models: the types and ranges that bodies are checked against."""
