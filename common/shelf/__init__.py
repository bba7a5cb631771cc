"""The table of models: its settings and its file."""
